"""Format of a run's record, and its validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reidx.errors import ConfigError

FORMAT = 2
"""Format version of a run's files. reidx 0.1 wrote no version, and its keys and fields had other names."""


def is_record(found: Any) -> bool:
    """Return true if ``found`` has the form that :meth:`RunManifest.write` writes; fields that are not read may be missing."""

    def mapping(value: Any, of: Callable[[Any], bool]) -> bool:
        return isinstance(value, dict) and all(map(of, value.values()))

    def text(value: Any) -> bool:
        return isinstance(value, str)

    stamp = {"run": str, "seed": int, "stage": str, "key": str}
    then = found.get("provenance", {}) if isinstance(found, dict) else None
    return (
        isinstance(found, dict)
        and text(found.get("hash"))
        and text(found.get("begun", ""))
        and type(found.get("sessions", 0)) is int
        and isinstance(found.get("resumed", []), list)
        and all(mapping(once, text) for once in found.get("resumed", []))
        and isinstance(then, dict)
        and mapping(then.get("files", {}), text)
        and mapping(then.get("data", {}), lambda splits: mapping(splits, lambda split: mapping(split, lambda _: True)))
        and mapping(
            found.get("stages", {}),
            lambda own: own is None or (isinstance(own, dict) and {k: type(v) for k, v in own.items()} == stamp),
        )
    )


def refuse_other_format(found: Any, folder: Path) -> None:
    """Raise :class:`ConfigError` if ``found``, the record of the run in ``folder``, has another format version."""
    if not isinstance(found, dict) or not isinstance(found.get("hash"), str) or found.get("format") == FORMAT:
        return
    raise ConfigError(
        f"{folder} was started by another version of reidx (its format is {found.get('format', 1)}, not {FORMAT}) and cannot "
        "be resumed by this one. Name another folder (--work-dir), or resume it with the version that started it."
    )
