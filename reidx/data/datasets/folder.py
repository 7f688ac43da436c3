"""Listing of an image folder: the image names, and counts of the files passed over."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from reidx.data.datasets.base import PASSED_OVER
from reidx.data.decode import is_image

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


def read_folder(folder: Path, dropped: dict[str, int], remarks: list[str]) -> Found:
    """List the images directly in ``folder``, and add the other files to a data set's ``dropped`` and ``remarks``."""
    found = images_in(folder)
    remarks.extend(found.remarks(folder))
    if passed_over := sum(found.passed_over.values()):
        dropped[PASSED_OVER] = dropped.get(PASSED_OVER, 0) + passed_over
    return found


def images_in(folder: Path) -> Found:
    """List the images directly in ``folder``, and count the other files: those in sub-folders or of other kinds."""
    names, hidden, below, other = [], 0, Counter[str](), Counter[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if count := _images_below(entry.path):
                    below[entry.name] += count
            elif entry.name.startswith("."):
                hidden += is_image(entry.name) and not entry.name.startswith("._")
            elif is_image(entry.name):
                names.append(entry.name)
            elif entry.name.lower() not in OF_SYSTEMS:
                other[os.path.splitext(entry.name)[1] or "without a suffix"] += 1
    passed_over = {
        f"images in sub-folders ({_listed(below)})": sum(below.values()),
        f"files of other formats ({_listed(other)})": sum(other.values()),
        "hidden images": hidden,
    }
    return Found(sorted(names), {what: count for what, count in passed_over.items() if count})


def _images_below(folder: str) -> int:
    return sum(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _listed(counts: Counter[str]) -> str:
    shown = ", ".join(name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3])
    return f"{shown}, …" if len(counts) > 3 else shown
