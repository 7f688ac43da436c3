"""Fingerprints of data sets, which keep a run from being resumed on different data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from reidx.data.address import parse_address
from reidx.data.datasets import Dataset, Split


def fingerprint(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The fingerprint of each split: its image count and digests of file names (with the boxes of crops), file sizes,
    identities, cameras and further columns.

    File names are relative to their common folder, so that the data set, or each part of a union, may be moved; if a table
    also lists files outside the data set's folder, those are relative to a second common folder. No file is opened, so a
    change that preserves a file's size goes unnoticed. A missing file has size -1.
    """
    splits = {name: getattr(dataset, name) for name in ("train", "query", "gallery")}
    folders = {os.path.dirname(path) for split in splits.values() for path in split.paths}
    starts = _starts(folders, getattr(dataset, "roots", [dataset.root]))
    return {name: _split(split, starts) for name, split in splits.items()}


def _starts(folders: set[str], roots: Sequence[str]) -> dict[str, str]:
    """The path of each folder relative to the common folder of all those below one of ``roots``, or of all the others."""
    tops = [os.path.join(os.path.abspath(root), "") for root in roots]
    full = {folder: os.path.join(os.path.abspath(folder), "") for folder in folders}
    below = {folder: next((top for top in tops if path.startswith(top)), None) for folder, path in full.items()}
    starts = {}
    for top in dict.fromkeys((*tops, None)):
        group = [folder for folder in full if below[folder] == top]
        try:
            start = os.path.commonpath([full[folder] for folder in group]) if group else ""
        except ValueError:  # on several drives
            start = ""
        starts.update({folder: os.path.relpath(full[folder], start) if start else full[folder] for folder in group})
    return starts


def _split(split: Split, starts: dict[str, str]) -> dict[str, Any]:
    names = [os.path.join(starts[os.path.dirname(path)], os.path.basename(path)) for path in split.paths]
    sizes = np.array([_size(path) for path in split.paths], dtype=np.int64)
    columns = {name: _digest(column.tobytes()) for name, column in sorted(split.columns.items())}
    ids = b"" if split.ids is None else split.ids.tobytes()
    return {
        "images": len(split),
        "files": _digest("\0".join(names).encode(errors="surrogateescape")),
        "sizes": _digest(sizes.tobytes()),
        "ids": _digest(ids),
        "cameras": _digest(split.cameras.tobytes()),
        **({"columns": columns} if columns else {}),
    }


def _size(address: str) -> int:
    try:
        return os.stat(parse_address(address)[0]).st_size
    except OSError:
        return -1


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
