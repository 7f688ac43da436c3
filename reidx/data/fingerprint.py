"""What stands for the content of a data set, so that a run is not gone on with on other data unnoticed."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from reidx.data.datasets import Dataset, Split


def fingerprint(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Of each split the number of images, and digests of the file names, of their sizes, of ids and cameras.

    Names are those below the folder that holds them all, so that it may be moved. No file is opened: a change that leaves
    its size as it was is not noticed. One that is missing counts as of size -1.
    """
    splits = {name: getattr(dataset, name) for name in ("train", "query", "gallery")}
    folders = {os.path.dirname(path) for split in splits.values() for path in split.paths}
    start = os.path.join(os.path.commonpath(folders), "") if folders else ""
    return {name: _split(split, start) for name, split in splits.items()}


def _split(split: Split, start: str) -> dict[str, Any]:
    names = [path.removeprefix(start) for path in split.paths]
    sizes = np.array([_size(path) for path in split.paths], dtype=np.int64)
    ids = b"" if split.ids is None else split.ids.tobytes()
    return {
        "images": len(split),
        "files": _digest("\0".join(names).encode(errors="surrogateescape")),
        "sizes": _digest(sizes.tobytes()),
        "ids": _digest(ids),
        "cameras": _digest(split.cameras.tobytes()),
    }


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
