"""The identity of images: different paths may lead to the same file through links or relative parts."""

from __future__ import annotations

import filecmp
import os
import stat
from collections.abc import Sequence

import numpy as np

from reidx.data.address import parse_address

File = tuple[object, ...]


def file_of(address: str) -> File | None:
    """The identity of the image at ``address``, independent of its name; None where there is no regular file.

    Symbolic and hard links have the identity of their target; a copy has its own, and so has each crop of a file.
    """
    path, box = parse_address(address)
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    file = (found.st_dev, found.st_ino) if found.st_ino else (os.path.realpath(path),)
    return (*file, *(box or ()))


def is_copy(path: str, other: str) -> bool:
    """Return True if two files hold the same bytes, and crops the same box; False if either cannot be read."""
    (path, box), (other, other_box) = parse_address(path), parse_address(other)
    try:
        return box == other_box and os.path.getsize(path) == os.path.getsize(other) and filecmp.cmp(path, other, shallow=False)
    except OSError:
        return False


def same_files(these: Sequence[str], those: Sequence[str]) -> np.ndarray:
    """Pairs (M,2) int64 of positions in ``these`` and ``those`` that refer to the same file, in the order of ``these``."""
    places: dict[File, list[int]] = {}
    for place, path in enumerate(those):
        if (file := file_of(path)) is not None:
            places.setdefault(file, []).append(place)
    pairs = [
        (place, other)
        for place, path in enumerate(these)
        if (file := file_of(path)) is not None
        for other in places.get(file, ())
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)
