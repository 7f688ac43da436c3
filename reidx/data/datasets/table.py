"""A data set in a CSV table, for the user's own images."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from reidx.data.datasets.base import Dataset, Split, parse_number
from reidx.data.datasets.rows import read_rows
from reidx.data.files import File, file_of
from reidx.errors import DataError
from reidx.registry.constructor import FilePath

_COLUMNS = ("path", "pid", "camid", "split")


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    pid: int | None
    camid: int | None
    split: str
    columns: dict[str, str]


class CSV(Dataset):
    """Your own images, listed in a CSV table.

    Its columns are ``path,pid,camid,split``, with split one of train, query, gallery. ``columns`` names further ones, which
    components get by name: whole numbers as they are, or texts, numbered from 0 in sorted order over all splits; −1 is an
    empty cell. Other columns are ignored.

    Relative paths start at ``root``, or else at the table's folder. ``camid`` is empty in every row (no cameras) or in
    none; ``pid`` is empty in every training row (unlabelled) or in none, and never in query and gallery. Both are
    whole numbers from 0 (0 is an ordinary identity here). An image may be both query and gallery, where it does not match
    itself, and both in training and in the test, which is reported.

    Raises :class:`DataError`, with the table's line, for malformed text; for a missing column, value or image file; for a
    number written in two ways; and for a file listed twice in a split, or under two identities, cameras or further values.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "query", "gallery")

    def __init__(self, path: FilePath, root: str | None = None, columns: tuple[str, ...] = ()) -> None:
        if wrong := [name for name in columns if name in _COLUMNS or columns.count(name) > 1]:
            raise ValueError(f"columns has {wrong[0]!r}; name each further column once, and none of {', '.join(_COLUMNS)}.")
        self.table, self.columns = Path(path).expanduser(), columns
        self.name = self.table.stem
        self.dropped = {}
        self.root = str(Path(root).expanduser() if root is not None else self.table.parent)
        rows = self._rows()
        # one line represents a column that must be full or empty throughout
        self._all_or_none("camid", rows)
        self._all_or_none("pid", [row for row in rows if row.split == "train"])
        for row in rows:
            if row.split != "train" and row.pid is None:
                raise self._error(row.line, f"a {row.split} image needs a pid.")
        self._check_files(rows)
        numbers = {name: self._numbers(rows, name) for name in columns}
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

    def _error(self, line: int, message: str) -> DataError:
        return DataError(f"{self.table}, line {line}: {message}")

    def _rows(self) -> list[_Row]:
        rows: list[_Row] = []
        spelt: dict[tuple[str, int], tuple[str, int]] = {}
        for line, values in read_rows(self.table, (*_COLUMNS, *self.columns)):
            if values["split"] not in self.splits:
                raise self._error(line, f"split is {values['split']!r}; it must be one of {', '.join(self.splits)}.")
            if not values["path"]:
                raise self._error(line, "path is empty; give that of an image.")
            numbers: dict[str, int | None] = {"pid": None, "camid": None}
            for column in (column for column in numbers if values[column]):
                text = values[column]
                if not (text.isascii() and text.isdigit()):
                    raise self._error(line, f"{column} is {text!r}; it must be a whole number from 0, or empty.")
                found = numbers[column] = parse_number(text, column, f"{self.table}, line {line}")
                first, where = spelt.setdefault((column, found), (text, line))
                if first != text:
                    raise self._error(
                        line, f"{column} is {text!r}, but line {where} writes that number {first!r}. Write it in one way."
                    )
            path, further = os.path.join(self.root, values["path"]), {name: values[name] for name in self.columns}
            rows.append(_Row(line, path, numbers["pid"], numbers["camid"], values["split"], further))
        if not rows:
            raise DataError(f"{self.table} has a first line but no images.")
        return rows

    def _check_files(self, rows: Sequence[_Row]) -> None:
        """Raise :class:`DataError` for a row whose file is missing, or conflicts with an earlier row of the same file.

        Links count as their target.
        """
        earlier: dict[File, list[_Row]] = {}
        learnt_and_tested: set[str] = set()
        for row in rows:
            file = file_of(row.path)
            if file is None:
                raise self._error(row.line, f"there is no file {row.path}.")
            for other in earlier.setdefault(file, []):
                same = f"{row.path} is the image of line {other.line}"
                same += "" if other.path == row.path else f" ({other.path})"
                for column in ("pid", "camid"):
                    here, there = getattr(row, column), getattr(other, column)
                    if None not in (here, there) and here != there:
                        raise self._error(row.line, f"{same}, under {column} {here} here and {there} there. Drop one of them.")
                if unlike := [name for name in self.columns if row.columns[name] != other.columns[name]]:
                    here, there = row.columns[unlike[0]], other.columns[unlike[0]]
                    both = f"under {unlike[0]} {here!r} here and {there!r} there"
                    raise self._error(row.line, f"{same}, {both}. Drop one of them.")
                if row.split == other.split:
                    raise self._error(row.line, f"{same}, in {row.split} too. Drop one of them.")
                if "train" in (row.split, other.split):
                    learnt_and_tested.add(row.path)
            earlier[file].append(row)
        if learnt_and_tested:
            self.remarks = [f"{len(learnt_and_tested):,} training images are query or gallery images, too"]

    def _all_or_none(self, column: str, rows: list[_Row]) -> None:
        for row in rows:
            if (getattr(row, column) is None) != (getattr(rows[0], column) is None):
                full, empty = (row, rows[0]) if getattr(rows[0], column) is None else (rows[0], row)
                raise self._error(
                    empty.line,
                    f"{column} is empty, but line {full.line} has one; give it in all of these rows or in none.",
                )

    def _numbers(self, rows: list[_Row], name: str) -> np.ndarray:
        """Numbers (N,) int64 of a further column: its whole numbers, or the places of its texts in sorted order."""
        texts = [row.columns[name] for row in rows]
        if all(re.fullmatch(r"[0-9]+", text) for text in texts if text):
            found = [parse_number(row.columns[name] or "0", name, f"{self.table}, line {row.line}") for row in rows]
        else:
            places = {text: place for place, text in enumerate(sorted({text for text in texts if text}))}
            found = [places.get(text, -1) for text in texts]
        return np.array([number if text else -1 for number, text in zip(found, texts)], np.int64)

    @staticmethod
    def _split(all_rows: list[_Row], numbers: dict[str, np.ndarray], split: str) -> Split:
        chosen = np.array([row.split == split for row in all_rows], dtype=bool)
        rows = [row for row in all_rows if row.split == split]
        unlabelled = bool(rows) and rows[0].pid is None
        return Split(
            [row.path for row in rows],
            None if unlabelled else np.array([row.pid for row in rows], np.int64),
            np.array([-1 if row.camid is None else row.camid for row in rows], np.int64),
            {name: column[chosen] for name, column in numbers.items()},
        )
