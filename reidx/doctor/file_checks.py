"""Checks of the files of a data set: refused names, unreadable images, duplicates, sizes, suffixes."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from reidx.data.address import parse_address
from reidx.data.files import file_of
from reidx.doctor.files import ImageFile
from reidx.doctor.findings import Finding, Place, counted
from reidx.doctor.recognition import Reading

USUAL = 0.95
"""Share of images of one size from which the others are reported."""
SMALLEST = 16
"""Images with a shorter side (in pixels) are reported."""
FEW = 3
"""Number of suffixes in a message."""


def check_files(reading: Reading, files: Mapping[str, ImageFile]) -> Iterator[Finding]:
    """Yield the findings about the files of a data set; ``files`` are those of its splits."""
    yield from _refused(reading)
    yield from _unreadable(files)
    yield from _duplicates(reading, files)
    yield from _sizes(files)
    yield from _suffixes(reading)


def _refused(reading: Reading) -> Iterator[Finding]:
    places = [Place(fault.place, _without_place(fault.message, fault.place)) for fault in reading.faults]
    if reading.dataset is None:
        yield Finding("error", "loader", f"{reading.component} cannot be read", places)
    elif places:
        refused = counted(len(places), "file or line", "files or lines")
        yield Finding("error", "names", f"{reading.component} refuses {refused}", places)


def _without_place(message: str, place: str) -> str:
    """Return a loader's message without the place at its beginning."""
    return message.partition(f"{place}: ")[2] or message


def _unreadable(files: Mapping[str, ImageFile]) -> Iterator[Finding]:
    places = [Place(path, file.fault) for path, file in files.items() if file.fault]
    if places:
        yield Finding("error", "images", f"{counted(len(places), 'image')} cannot be read", places)


def _duplicates(reading: Reading, files: Mapping[str, ImageFile]) -> Iterator[Finding]:
    """Yield copies (files with the same bytes) within a split, across splits, and under two identities."""
    groups: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for name, split in reading.splits().items():
        ids = np.full(len(split), -1) if split.ids is None else split.ids
        for path, who in zip(split.paths, ids.tolist()):
            if digest := files[path].digest:
                groups[digest].append((name, who, path))
    within, leaks, tested, unlike = [], [], [], []
    separate = reading.dataset is not None and reading.dataset.separate_ids
    for group in groups.values():
        if len(group) < 2 or len({file_of(path) for _, _, path in group}) < 2:  # links, or one file in two splits
            continue
        names = {name for name, _, _ in group}
        place = Place(group[0][2], "also " + ", ".join(path for _, _, path in group[1:]))
        if "train" in names and len(names) > 1:
            leaks.append(place)
        if len(names) > 1 and "train" not in names:
            tested.append(place)
        if len(group) > len(names):
            within.append(place)
        people = {(name == "train" and separate, who) for name, who, _ in group if who >= 0}
        if len(people) > 1 and not (separate and len(names) > 1 and "train" in names):
            unlike.append(place)
    if leaks:
        yield Finding("error", "leak", f"{counted(len(leaks), 'training image')} with a copy in the test", leaks)
    if unlike:
        yield Finding("warning", "duplicates", f"{counted(len(unlike), 'image')} with a copy under another identity", unlike)
    if tested:
        yield Finding("warning", "duplicates", f"{counted(len(tested), 'query', 'queries')} with a copy in the gallery", tested)
    if within:
        yield Finding("warning", "duplicates", f"{counted(len(within), 'image')} with a copy in the same split", within)


def _sizes(files: Mapping[str, ImageFile]) -> Iterator[Finding]:
    sizes = {path: file.size for path, file in files.items() if file.size is not None}
    if not sizes:
        return
    (usual, count), *_ = Counter(sizes.values()).most_common(1)
    if count == len(sizes):
        yield Finding("fact", "sizes", f"all images have {_by(usual)} pixels (height x width)")
    elif count >= USUAL * len(sizes):
        places = [Place(path, _by(size)) for path, size in sizes.items() if size != usual]
        text = f"{len(places):,} of {counted(len(sizes), 'image')} not of the usual {_by(usual)} pixels"
        yield Finding("warning", "sizes", text, places)
    else:
        low, middle, high = np.percentile(np.array(list(sizes.values())), [0, 50, 100], axis=0).astype(int)
        text = f"{len(set(sizes.values())):,} sizes; heights {low[0]} to {high[0]} (median {middle[0]})"
        yield Finding("fact", "sizes", f"{text}, widths {low[1]} to {high[1]} (median {middle[1]})")
    if tiny := [Place(path, _by(size)) for path, size in sizes.items() if min(size) < SMALLEST]:
        yield Finding("warning", "sizes", f"{counted(len(tiny), 'image')} with a side shorter than {SMALLEST} pixels", tiny)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _suffixes(reading: Reading) -> Iterator[Finding]:
    """Yield images whose suffix is unlike that of the others: code that searches ``*.jpg`` skips them."""
    paths = [parse_address(path)[0] for split in reading.splits().values() for path in split.paths]
    if usual := usual_suffix(paths):
        odd = [Place(path) for path in dict.fromkeys(paths) if os.path.splitext(path)[1] != usual]
        if odd:
            found = ", ".join(sorted({os.path.splitext(place.path)[1] for place in odd})[:FEW])
            text = f"{counted(len(odd), 'image')} ending in {found}, the others in {usual}; other code may skip them"
            yield Finding("warning", "suffixes", text, odd)


def usual_suffix(paths: list[str]) -> str:
    """Return the most frequent suffix; empty for no paths."""
    (suffix, _), *_ = Counter(os.path.splitext(path)[1] for path in paths).most_common(1) or [("", 0)]
    return suffix
