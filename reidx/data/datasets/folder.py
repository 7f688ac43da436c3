"""Listing of an image folder, flat or with its sub-folders: the image names, and counts of the files passed over."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

from reidx.data.datasets.base import PASSED_OVER
from reidx.data.datasets.inspection import file_or_line
from reidx.data.decode import is_image
from reidx.errors import DataError

OF_SYSTEMS = frozenset({"thumbs.db", "desktop.ini"})
"""Files left by file managers; these and hidden files (``.DS_Store``, ``._NAME``) are not counted."""


@dataclass(frozen=True)
class Found:
    """The sorted ``names`` of a folder's images in supported formats, and ``passed_over``, counts of other files by kind."""

    names: list[str]
    passed_over: dict[str, int]

    def remarks(self, folder: Path) -> list[str]:
        """Sentences on the files passed over, and on images whose names differ only by suffix."""
        listed = "; ".join(f"{count:,} {what}" for what, count in self.passed_over.items())
        stems = Counter(os.path.splitext(name)[0] for name in self.names)
        alike = sum(count for count in stems.values() if count > 1)
        return [
            *([f"{folder}: passed over {listed}"] if listed else []),
            *([f"{folder}: {alike:,} images share a name, but for the suffix, with another; all are read"] if alike else []),
        ]


def read_folder(folder: Path, dropped: dict[str, int], remarks: list[str], below: bool = False) -> Found:
    """List the images directly in ``folder``, and add the other files to a data set's ``dropped`` and ``remarks``.

    With ``below``, those in sub-folders are listed, too (:func:`images_below`).
    """
    found = images_below(folder) if below else images_in(folder)
    remarks.extend(found.remarks(folder))
    if passed_over := sum(found.passed_over.values()):
        dropped[PASSED_OVER] = dropped.get(PASSED_OVER, 0) + passed_over
    return found


def named_images(
    folder: Path, start: re.Pattern[str], example: str, dropped: dict[str, int], remarks: list[str]
) -> list[tuple[str, re.Match[str]]]:
    """The path of each image directly in ``folder``, and the match of ``start`` with the start of its name.

    Other files are added to ``dropped`` and ``remarks``. Raises :class:`DataError`, with ``example``, for another name.
    """
    named = []
    for name in read_folder(folder, dropped, remarks).names:
        with file_or_line(folder / name):
            match = start.match(name)
            if match is None:
                raise DataError(f"{folder / name}: the file name is not understood; a name looks like {example}.")
            named.append((f"{folder}{os.sep}{name}", match))
    return named


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in ``folder``, by name, without hidden ones; raises :class:`DataError` if it cannot be read."""
    return [folder / name for name in sorted(e.name for e in _entries(folder) if _is_folder(e) and not e.name.startswith("."))]


def files_in(folder: Path) -> frozenset[str]:
    """The names of the files directly in ``folder``; raises :class:`DataError` if it cannot be read."""
    return frozenset(entry.name for entry in _entries(folder) if not _is_folder(entry))


def images_in(folder: Path) -> Found:
    """List the images directly in ``folder``, and count the other files: those in sub-folders or of other kinds."""
    listing, below = _Listing([], Counter()), Counter[str]()
    for entry in _entries(folder):
        if not _is_folder(entry):
            listing.add(entry, entry.name)
        elif count := _count_below(entry.path):
            below[entry.name] += count
    return listing.found({f"images in sub-folders ({_listed(below)})": sum(below.values())})


def images_below(top: Path) -> Found:
    """List the images in ``top`` and all its sub-folders as relative paths with ``/``, and count the other files.

    Links to folders are followed after the folders themselves. A folder is read once: a link to it, or to one above it, is
    passed over. Hidden folders are not read.

    Raises :class:`DataError` for a folder that cannot be read.
    """
    listing, seen, repeated = _Listing([], Counter()), set[tuple[int, int]](), 0
    own, linked = [(str(top), "")], deque[tuple[str, str]]()
    while own or linked:
        folder, prefix = own.pop() if own else linked.popleft()
        at = _identity(folder)
        if at in seen:
            repeated += 1
            continue
        seen.add(at)
        for entry in _entries(folder):
            if not _is_folder(entry):
                listing.add(entry, prefix + entry.name)
            elif entry.name.startswith("."):
                listing.hidden += _count_below(entry.path)
            else:
                (linked if entry.is_symlink() else own).append((entry.path, f"{prefix}{entry.name}/"))
    return listing.found({"links to folders that are read already": repeated})


@dataclass
class _Listing:
    """The images found so far, and counts of the other files."""

    names: list[str]
    other: Counter[str]
    hidden: int = 0

    def add(self, entry: os.DirEntry[str], name: str) -> None:
        """Add a file under ``name``, or count it."""
        if entry.name.startswith("."):
            self.hidden += is_image(entry.name) and not entry.name.startswith("._")
        elif is_image(entry.name):
            self.names.append(name)
        elif entry.name.lower() not in OF_SYSTEMS:
            self.other[os.path.splitext(entry.name)[1] or "without a suffix"] += 1

    def found(self, folders: dict[str, int]) -> Found:
        """The images in sorted order, and counts of the entries passed over: ``folders``, then files."""
        files = {f"files of other formats ({_listed(self.other)})": sum(self.other.values()), "hidden images": self.hidden}
        return Found(sorted(self.names), {what: count for what, count in {**folders, **files}.items() if count})


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = os.stat(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return found.st_dev, found.st_ino


def _unreadable(folder: str | Path, error: OSError) -> DataError:
    return DataError(f"{folder} cannot be read: {error.strerror}. Make the folder readable, or move it away.")


def _count_below(folder: str) -> int:
    return sum(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _listed(counts: Counter[str]) -> str:
    shown = ", ".join(name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3])
    return f"{shown}, …" if len(counts) > 3 else shown
