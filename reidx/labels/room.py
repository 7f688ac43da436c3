"""The refusal of what would not fit into the memory, before it is made."""

from __future__ import annotations

from reidx.errors import DataError
from reidx.machine.free_memory import free_memory


def refuse_beyond(needed: float, what: str) -> None:
    """Raise :class:`DataError` where `what` needs more bytes than can be had."""
    free = free_memory()
    if needed > free:
        raise DataError(
            f"{what} would take {needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free. Where nearly every image is "
            "near every other, the network may have collapsed: lower its learning rate, or start from better weights; else let "
            "the distance keep fewer pairs (a smaller k or k1)."
        )
