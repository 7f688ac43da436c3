"""A data set in a table of images, for the user's own images."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from reidx.data.address import Box, address_of, shown
from reidx.data.datasets.base import Dataset, Split
from reidx.data.datasets.inspection import file_or_line
from reidx.data.datasets.numbering import number_texts
from reidx.data.datasets.rows import read_rows
from reidx.data.decode import CorruptImage, size_of
from reidx.data.files import File, file_of
from reidx.errors import DataError
from reidx.registry.constructor import FilePath

_COLUMNS = ("path", "pid", "camid", "split")
_BOX = ("x", "y", "w", "h")


class _Row(NamedTuple):
    number: int
    path: str
    split: str
    values: dict[str, str]
    address: str


class Table(Dataset, ABC):
    """Images listed in a table with the columns ``path``, ``pid``, ``camid`` and ``split``.

    A subclass reads its format in :meth:`read`, and ``unit`` is its word for the place of a row.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "query", "gallery")
    unit: ClassVar[str] = "line"

    def __init__(
        self,
        path: FilePath,
        root: str | None = None,
        columns: tuple[str, ...] = (),
        names: dict[str, str] | None = None,
        boxes: bool = False,
    ) -> None:
        if wrong := [name for name in columns if name in _COLUMNS or columns.count(name) > 1]:
            raise ValueError(f"columns has {wrong[0]!r}; name each further column once, and none of {', '.join(_COLUMNS)}.")
        self.table, self.columns = Path(path).expanduser(), columns
        self.name = self.table.stem
        self.dropped = {}
        self.root = str(Path(root).expanduser() if root is not None else self.table.parent)
        rows = self._rows(_headings((*_COLUMNS, *columns, *(_BOX if boxes else ())), names or {}), boxes)
        rows = self._kept(rows, self._tested_needs_a_pid)
        rows = self._kept(rows, self._as_first("camid", rows))
        rows = self._kept(rows, self._as_first("pid", [row for row in rows if row.split == "train"]))
        rows = self._checked_files(rows)
        if boxes:
            sizes: dict[str, tuple[int, int]] = {}
            rows = self._kept(rows, lambda row: self._check_box(row, sizes))
        numbers = self._numbers(rows)
        self.train, self.query, self.gallery = (self._split(rows, numbers, split) for split in self.splits)
        if bool(len(self.query)) != bool(len(self.gallery)):
            there, absent = ("query", "gallery") if len(self.query) else ("gallery", "query")
            raise DataError(
                f"{self.table}: there are {there} images but no {absent} images; retrieval needs both."
            )

    @staticmethod
    def contract(columns: Sequence[str] = (), **_: object) -> dict[str, Any]:
        """The further columns that the table is read for."""
        return {"columns": frozenset(columns)}

    @abstractmethod
    def read(self, headings: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """Read the number and the values of each row, as text, by the columns' names in the table (``headings``)."""

    def _at(self, number: int) -> str:
        return f"{self.unit} {number}"

    def _place(self, number: int) -> str:
        return f"{self.table}, {self._at(number)}"

    def _error(self, number: int, message: str) -> DataError:
        return DataError(f"{self._place(number)}: {message}")

    def _rows(self, headings: Mapping[str, str], boxes: bool) -> list[_Row]:
        rows: list[_Row] = []
        empty = True
        for number, found in self.read(list(headings.values())):
            empty = False
            values = {column: found[heading] for column, heading in headings.items()}
            with file_or_line(self._place(number)):
                split = values["split"]
                if split not in self.splits:
                    raise self._error(number, f"split is {split!r}; it must be one of {', '.join(self.splits)}.")
                if not values["path"]:
                    raise self._error(number, "path is empty; give that of an image.")
                path = os.path.join(self.root, values["path"])
                address = address_of(path, self._box(number, values)) if boxes else path
                rows.append(_Row(number, path, split, values, address))
        if empty:
            raise DataError(f"{self.table} has a first line but no images.")
        return rows

    def _kept(self, rows: Sequence[_Row], check: Callable[[_Row], None]) -> list[_Row]:
        """The rows that pass a check; the first other one is an error, or each is a fault of an inspection."""
        kept = []
        for row in rows:
            with file_or_line(self._place(row.number)):
                check(row)
                kept.append(row)
        return kept

    def _box(self, number: int, values: Mapping[str, str]) -> Box:
        for column in _BOX:
            text = values[column]
            if not (text.isascii() and text.isdigit() and len(text) < 10) or (column in "wh" and not int(text)):
                needed = "a box has whole numbers of pixels: x and y from 0, w and h from 1."
                raise self._error(number, f"{column} is {text!r}; {needed}")
        return Box(*(int(values[column]) for column in _BOX))

    def _checked_files(self, rows: Sequence[_Row]) -> list[_Row]:
        """Refuse a row whose file is missing, or that conflicts with an earlier row of the same image.

        Links count as their target; crops of a file are different images.
        """
        earlier: dict[File, list[_Row]] = {}
        learnt_and_tested: set[str] = set()

        def check(row: _Row) -> None:
            file = file_of(row.address)
            if file is None:
                raise self._error(row.number, f"there is no file {shown(row.path)}.")
            for other in earlier.setdefault(file, []):
                self._check_pair(row, other)
                if "train" in (row.split, other.split):
                    learnt_and_tested.add(row.address)
            earlier[file].append(row)

        kept = self._kept(rows, check)
        if learnt_and_tested:
            count = f"{len(learnt_and_tested):,} training images are query or gallery images, too"
            self.remarks = [*self.remarks, count]
        return kept

    def _check_pair(self, row: _Row, other: _Row) -> None:
        """Refuse a second row of an image in the same split, or with other values."""
        same = f"{row.path} is the image of {self._at(other.number)}"
        same += "" if other.path == row.path else f" ({other.path})"
        for column in ("pid", "camid", *self.columns):
            here, there = row.values[column], other.values[column]
            unknown = column == "pid" and "" in (here, there)
            if here != there and not unknown:
                both = f"under {column} {here!r} here and {there!r} there"
                raise self._error(row.number, f"{same}, {both}. Drop one of them.")
        if row.split == other.split:
            raise self._error(row.number, f"{same}, in {row.split} too. Drop one of them.")

    def _check_box(self, row: _Row, sizes: dict[str, tuple[int, int]]) -> None:
        """Refuse a box that is not inside its image; ``sizes`` are those of the files whose header was read."""
        if row.path not in sizes:
            try:
                sizes[row.path] = size_of(row.path)
            except CorruptImage as error:
                raise self._error(row.number, str(error)) from error
        box, (width, height) = self._box(row.number, row.values), sizes[row.path]
        if not box.lies_in(width, height):
            found = f"the box x {box.x}, y {box.y}, w {box.width}, h {box.height} is not inside {row.path}"
            raise self._error(row.number, f"{found}, which is {width} pixels wide and {height} high.")

    def _tested_needs_a_pid(self, row: _Row) -> None:
        if row.split != "train" and not row.values["pid"]:
            raise self._error(row.number, f"a {row.split} image needs a pid.")

    def _as_first(self, column: str, rows: Sequence[_Row]) -> Callable[[_Row], None]:
        """A check that a column is full or empty in all of ``rows``, as in the first of them; other rows pass."""
        numbers = {row.number for row in rows}

        def check(row: _Row) -> None:
            if row.number in numbers and bool(row.values[column]) != bool(rows[0].values[column]):
                full, empty = (row, rows[0]) if row.values[column] else (rows[0], row)
                raise self._error(
                    empty.number,
                    f"{column} is empty, but {self._at(full.number)} has one; give it in all of these rows or in none.",
                )

        return check

    def _numbers(self, rows: list[_Row]) -> dict[str, np.ndarray]:
        """Numbers (N,) int64 of identities, cameras and further columns, by column."""
        numbers, numbered = {}, {}
        for column in ("pid", "camid", *self.columns):
            texts = [row.values[column] for row in rows]
            made = number_texts(texts, column, lambda place: self._place(rows[place].number))
            numbers[column] = made.numbers
            self.remarks = [*self.remarks, *made.remarks]
            if made.names:
                numbered[{"pid": "ids", "camid": "cameras"}.get(column, column)] = made.names
        self.numbered = numbered
        return numbers

    def _split(self, rows: list[_Row], numbers: Mapping[str, np.ndarray], split: str) -> Split:
        chosen = np.array([row.split == split for row in rows], dtype=bool)
        ids = numbers["pid"][chosen]
        return Split(
            [row.address for row in rows if row.split == split],
            None if len(ids) and ids[0] < 0 else ids,
            numbers["camid"][chosen],
            {name: numbers[name][chosen] for name in self.columns},
        )


class CSV(Table):
    """Your own images, listed in a CSV table.

    Its columns are ``path,pid,camid,split``, with split one of train, query, gallery. ``columns`` names further ones, which
    components get by name; other columns are ignored. ``names`` maps columns that the table calls otherwise: ``{pid: person}``.

    Identities, cameras and further columns are whole numbers from 0, which stay as they are, or names, numbered from 0 in
    sorted order over all splits. ``camid`` is empty in every row (no cameras) or in none; ``pid`` is empty in every training
    row (unlabelled) or in none, and never in query and gallery; an empty cell of a further column is -1.

    Relative paths start at ``root``, or else at the table's folder. With ``boxes`` each row is a crop of its file, in the
    columns ``x,y,w,h``: left and upper edge, width and height in pixels of the upright image. Crops of a file are different
    images. An image may be both query and gallery, where it does not match itself, and both in training and in the test,
    which is reported.

    Raises :class:`DataError`, with the table's line, for malformed text; for a missing column, value or image file; for a
    number written in two ways; for a box that is not inside its image; and for an image listed twice in a split, or under two
    identities, cameras or further values.
    """

    def read(self, headings: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """Read the rows below the header."""
        return read_rows(self.table, headings)


def _headings(columns: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """The name of each column in the table, by our name; raises :class:`ValueError` for one that is unknown or used twice."""
    if unknown := [name for name in names if name not in columns]:
        raise ValueError(f"names has {unknown[0]!r}, which is not read; it can map {', '.join(columns)}.")
    headings = {column: names.get(column, column) for column in columns}
    used = list(headings.values())
    if twice := [name for name in used if used.count(name) > 1]:
        both = " and ".join(column for column, name in headings.items() if name == twice[0])
        raise ValueError(f"names gives {both} the same column {twice[0]!r} of the table.")
    return headings
