"""A data set as a table: one's own images, without code."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from reidx.data.datasets.base import Dataset, Split
from reidx.errors import DataError


class CSV(Dataset):
    """A table of images: ``path,pid,camid,split`` with split one of train, query, gallery; other columns are ignored.

    Relative paths start at ``root``, or else at the table's folder. ``camid`` is empty in every row (no cameras) or in
    none; ``pid`` is empty in every training row (unlabelled) or in none, and never in query and gallery. Both are whole
    numbers from 0, of any meaning (0 is an ordinary identity here).

    Raises :class:`DataError` naming the table's line for a missing column, value or image file.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "query", "gallery")

    def __init__(self, path: str, root: str | None = None) -> None:
        self.table = Path(path).expanduser()
        self.name = self.table.stem
        self.dropped = {}
        self.root = str(Path(root).expanduser() if root is not None else self.table.parent)
        rows = self._rows()
        # one line speaks for a column that must be full or empty throughout
        self._all_or_none("camid", rows)
        self._all_or_none("pid", [row for row in rows if row["split"] == "train"])
        for row in rows:
            if row["split"] != "train" and not row["pid"]:
                raise self._error(row, f"a {row['split']} image needs a pid.")
        self.train, self.query, self.gallery = (self._split(rows, split) for split in self.splits)
        if bool(len(self.query)) != bool(len(self.gallery)):
            there, absent = ("query", "gallery") if len(self.query) else ("gallery", "query")
            raise DataError(
                f"{self.table}: there are {there} images but no {absent} images; retrieval needs both."
            )

    def _error(self, row: Mapping[str, str], message: str) -> DataError:
        return DataError(f"{self.table}, line {row['line']}: {message}")

    def _rows(self) -> list[dict[str, str]]:
        needed = ("path", "pid", "camid", "split")
        try:
            with open(self.table, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, restval="", skipinitialspace=True)
                lacking = [column for column in needed if column not in (reader.fieldnames or ())]
                if lacking:
                    raise DataError(
                        f"{self.table}, line 1: no column {', '.join(lacking)}; "
                        "the first line must be path,pid,camid,split."
                    )
                rows = [
                    {c: row[c].strip() for c in needed} | {"line": str(reader.line_num)} for row in reader
                ]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.table} cannot be read as a table: {error}.") from error
        if not rows:
            raise DataError(f"{self.table} has a first line but no images.")
        for row in rows:
            if row["split"] not in self.splits:
                raise self._error(
                    row, f"split is {row['split']!r}; it must be one of {', '.join(self.splits)}."
                )
            if not row["path"]:
                raise self._error(row, "path is empty.")
            for column in ("pid", "camid"):
                if row[column] and not (row[column].isascii() and row[column].isdigit()):
                    raise self._error(
                        row, f"{column} is {row[column]!r}; it must be a whole number from 0, or empty."
                    )
            row["path"] = os.path.join(self.root, row["path"])
            if not os.path.isfile(row["path"]):
                raise self._error(row, f"there is no file {row['path']}.")
        return rows

    def _all_or_none(self, column: str, rows: list[dict[str, str]]) -> None:
        for row in rows:
            if bool(row[column]) != bool(rows[0][column]):
                full, empty = (rows[0], row) if rows[0][column] else (row, rows[0])
                raise self._error(
                    empty,
                    f"{column} is empty, but line {full['line']} has one; give it in all of these rows or in none.",
                )

    @staticmethod
    def _split(rows: list[dict[str, str]], split: str) -> Split:
        rows = [row for row in rows if row["split"] == split]
        unlabelled = bool(rows) and not rows[0]["pid"]
        return Split(
            [row["path"] for row in rows],
            None if unlabelled else np.array([int(row["pid"]) for row in rows], np.int64),
            np.array([int(row["camid"] or -1) for row in rows], np.int64),
        )
