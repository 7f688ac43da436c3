"""Search for a data set under the given root, in its customary places and layouts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from reidx.errors import DataError


def locate(
    name: str, root: str, places: Sequence[str], layouts: Mapping[str, Sequence[str]], request: str | None = None
) -> list[tuple[str, Path]]:
    """Find each (layout, folder) with a complete layout, in the order of ``places``, then of ``layouts``; at least one.

    A layout lists its required folders and files; names with a suffix are files. ``request`` is the page on which the data
    set is requested (empty: none), None for a data set without ``facts``.
    Raises :class:`DataError`, which lists the missing parts of the nearest layout, or all places searched and ``request``.
    """
    top = Path(root).expanduser()
    bases = [top / place for place in places]
    lacking = {
        (layout, base): [part for part in parts if not _is_there(base / part)]
        for base in bases
        for layout, parts in layouts.items()
    }
    whole = [found for found, missing in lacking.items() if not missing]
    if whole:
        return whole
    halves = [(layout, base) for layout, base in lacking if len(lacking[layout, base]) < len(layouts[layout])]
    if halves:
        nearest = min(halves, key=lambda half: len(lacking[half]))
        raise DataError(f"{name} at {nearest[1]} is incomplete: it lacks {', '.join(lacking[nearest])}.")
    raise DataError(
        f"{name} is not at {top}. Looked for the folders {'; or '.join(map(', '.join, layouts.values()))} in: "
        f"{', '.join(map(str, bases))}. Set the data set's root to the folder that holds them."
        + (f" reidx downloads no data set; request this one at {request}" if request else "")
        + (f" (`reidx data where {name}` shows its layout)" if request is not None else "")
    )


def _is_there(path: Path) -> bool:
    # unlike the methods of Path, these are False for a name that is too long or lies in a closed folder
    return os.path.isfile(path) if path.suffix else os.path.isdir(path)
