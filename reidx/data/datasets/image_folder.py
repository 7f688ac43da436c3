"""The user's own images in a folder: without identities, or with those that sub-folders or file names give."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from reidx.data.address import shown
from reidx.data.datasets.base import Dataset, Split
from reidx.data.datasets.drawn_test import draw_test
from reidx.data.datasets.folder import read_folder
from reidx.data.datasets.inspection import file_or_line, inspecting
from reidx.data.datasets.numbering import number_texts
from reidx.data.decode import is_image
from reidx.data.files import File, file_of
from reidx.errors import DataError

SHOWN = 3
"""Number of examples in a message."""


class _Image(NamedTuple):
    path: str
    split: str
    values: dict[str, str]


class ImageFolder(Dataset):
    """Your own images in a folder, with or without identities.

    All images below ``root`` are read. If it has folders ``train``, ``query`` and ``gallery`` (or some of them), these are the
    splits; otherwise all images are training images. ``test`` draws a test from the training images: it is the share of the
    identities that are not trained on. Of each of them, one image under each camera is a query, if another camera shows the
    person in the gallery; ``seed`` determines the draw.

    Without ``ids`` and ``pattern``, the images have no identities. With ``ids: folder`` the name of the sub-folder is the
    identity. ``pattern`` is a regular expression of Python with named groups: ``pid`` the identity, ``camid`` the camera, any
    other a column of that name. It is matched at the start of the file's name or, if it has a ``/``, of the path below ``root``
    or the split's folder. Whole numbers stay as they are, names are numbered from 0 in sorted order over all splits.

    An image without a match is an error; ``skip_unmatched`` leaves such images out and counts them. Files that are no images
    are reported. A folder that links lead to twice is read once.

    Raises :class:`DataError` for a missing or unreadable folder, for images that do not match, a file that is twice in a split,
    and a query or gallery without identities.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "query", "gallery")
    remarks: list[str]

    def __init__(
        self,
        root: str,
        ids: Literal["folder"] | None = None,
        pattern: str | None = None,
        test: float = 0.0,
        seed: int = 0,
        skip_unmatched: bool = False,
    ) -> None:
        if not 0 <= test <= 1:
            raise ValueError(f"test is {test}; it is the share of the identities that are tested, from 0 to 1.")
        self._parser = _Parser(ids, pattern)
        top = Path(root).expanduser()
        self.root, self.name = str(top), top.resolve().name or "images"
        self.dropped, self.remarks = {}, []
        folders = self._folders(top, test)
        self._number(self._checked_files(self._images(top, folders, skip_unmatched)))
        if test:
            if self.train.ids is None:
                raise DataError(f"{top}: test draws identities, but none are known. Set ids: folder, or a pattern with pid.")
            names = [os.path.relpath(path, top).replace(os.sep, "/") for path in self.train.paths]
            tested = draw_test(self.train.ids, self.train.cameras, names, test, seed)
            whole = self.train
            self.train, self.query, self.gallery = (whole.select(tested == split) for split in self.splits)

    @staticmethod
    def contract(pattern: str | None = None, **_: object) -> dict[str, Any]:
        """The columns that the pattern names."""
        try:
            groups = re.compile(pattern or "").groupindex
        except re.error:  # the constructor refuses it
            return {}
        return {"columns": frozenset(groups) - {"pid", "camid"}}

    def _folders(self, top: Path, test: float) -> dict[str, Path]:
        """The folder of each split that there is."""
        if not os.path.isdir(top):
            raise DataError(f"There is no folder {top}. Set root to the folder of your images.")
        there = {split: top / split for split in self.splits if (top / split).is_dir()}
        if ("query" in there) != ("gallery" in there):
            has, lacks = ("query", "gallery") if "query" in there else ("gallery", "query")
            raise DataError(f"{top} has a folder {has}, but no folder {lacks}; retrieval needs both.")
        if "query" in there and test:
            raise DataError(f"{top} has the folders query and gallery, so no test can be drawn. Leave out test.")
        return there or {"train": top}

    def _images(self, top: Path, folders: dict[str, Path], skip_unmatched: bool) -> list[_Image]:
        images, unmatched = [], []
        for split, folder in folders.items():
            for name in read_folder(folder, self.dropped, self.remarks, below=True).names:
                path = f"{folder}{os.sep}{name}"
                if (values := self._parser.parse(name)) is None:
                    unmatched.append(path)
                else:
                    images.append(_Image(path, split, values))
        if top not in folders.values():
            others = [path for path in sorted(top.iterdir()) if path.name not in folders and not path.name.startswith(".")]
            outside = [path.name for path in others if path.is_dir() or is_image(path.name)]
            if outside:
                listed = _examples(outside)
                self.remarks.append(f"{top}: only the folders {', '.join(folders)} are read, not {listed}")
        if unmatched and (not skip_unmatched or not images):
            for path in unmatched if inspecting() else ():
                with file_or_line(path):
                    raise DataError(f"{path}: images {self._parser.fault}. {self._parser.remedy}")
            if images and inspecting():
                return images
            raise DataError(
                f"{top}: {len(unmatched):,} of {len(unmatched) + len(images):,} images {self._parser.fault}: "
                f"{_examples([os.path.relpath(path, top) for path in unmatched])}. {self._parser.remedy}"
            )
        if unmatched:
            self.dropped[f"images that {self._parser.fault}"] = len(unmatched)
        if not images:
            found = f" ({'; '.join(self.remarks)})" if self.remarks else ""
            raise DataError(f"{top} has no images{found}.")
        return images

    def _checked_files(self, images: Sequence[_Image]) -> list[_Image]:
        """Refuse a file that cannot be an image or is twice in a split; links count as their target."""
        earlier: dict[File, _Image] = {}
        kept, both = [], 0
        for image in images:
            with file_or_line(image.path):
                if (file := file_of(image.path)) is None:
                    raise DataError(f"{shown(image.path)} is no file: a broken link, or a pipe. Remove it.")
                if (other := earlier.setdefault(file, image)) is not image:
                    if other.split == image.split:
                        same = f"{shown(image.path)} is the same file as {shown(other.path)}"
                        raise DataError(f"{same}, in {image.split} too. Remove one of them.")
                    both += "train" in (image.split, other.split)
                kept.append(image)
        if both:
            self.remarks.append(f"{both:,} training images are query or gallery images, too")
        return kept

    def _number(self, images: Sequence[_Image]) -> None:
        """Number the values of all images, and make the splits."""
        numbers, numbered = {}, {}
        for key in self._parser.keys:
            made = number_texts([image.values[key] for image in images], key, lambda place: shown(images[place].path))
            numbers[key] = made.numbers
            self.remarks += made.remarks
            if made.names:
                numbered[{"pid": "ids", "camid": "cameras"}.get(key, key)] = made.names
        self.numbered = numbered
        none = np.full(len(images), -1, np.int64)
        columns = {key: column for key, column in numbers.items() if key not in ("pid", "camid")}
        whole = Split([image.path for image in images], numbers.get("pid"), numbers.get("camid", none), columns)
        of = np.array([image.split for image in images])
        self.train, self.query, self.gallery = (whole.select(of == split) for split in self.splits)


class _Parser:
    """The values that the path of an image gives."""

    def __init__(self, ids: str | None, pattern: str | None) -> None:
        try:
            self.pattern = re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}.") from error
        groups = list(self.pattern.groupindex)
        if pattern is not None and not groups:
            raise ValueError(f"pattern {pattern!r} has no named group; write (?P<pid>…) around the identity.")
        if ids is not None and "pid" in groups:
            raise ValueError("the identity is given twice, by ids: folder and by the group pid of pattern. Leave out one.")
        self.by_folder, self.of_path = ids is not None, "/" in (pattern or "")
        self.keys = [*(["pid"] if self.by_folder else []), *groups]
        matched = f"do not match the pattern {pattern}"
        self.fault = "lie in no sub-folder" if pattern is None else matched
        self.fault += ", or lie in no sub-folder" if self.by_folder and pattern is not None else ""
        what = "Correct the pattern" if pattern is not None else "Move them into a folder of their identity"
        self.remedy = f"{what}, or set skip_unmatched: true, which leaves them out and counts them."

    def parse(self, name: str) -> dict[str, str] | None:
        """The values by key, for a path below the split's folder; None if it does not give all that it must."""
        match = self.pattern.match(name if self.of_path else name.rpartition("/")[2])
        if match is None:
            return None
        values = {key: text or "" for key, text in match.groupdict().items()}
        if self.by_folder:
            values["pid"] = name.partition("/")[0] if "/" in name else ""
        return values if all(values.get(key, "-") for key in ("pid", "camid")) else None


def _examples(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"{shown}, …" if len(names) > SHOWN else shown
