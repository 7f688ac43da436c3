"""Data sets: which images there are, and who is on them, seen by which camera.

A data set never opens an image; it reads file names or a table and checks them, so that a mistake shows at once.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from reidx.errors import DataError


@dataclass(frozen=True)
class Split:
    """The images of one split: ``paths`` (N), ``ids`` (N,) int64 or None, ``cameras`` (N,) int64, -1 = none known."""

    paths: list[str]
    ids: np.ndarray | None
    cameras: np.ndarray

    def __post_init__(self) -> None:
        for name, column in (("ids", self.ids), ("cameras", self.cameras)):
            if column is not None and (len(column) != len(self.paths) or column.dtype != np.int64):
                raise ValueError(f"{name} must be {len(self.paths)} int64 values, one for each path")

    def __len__(self) -> int:
        return len(self.paths)

    def unlabelled(self) -> Split:
        """The same images without identities: what training on an unlabelled domain is handed."""
        return replace(self, ids=None)

    def classes(self) -> np.ndarray:
        """Labels (N,) int64 in 0..K-1, in the order of the sorted identities.

        Raises :class:`DataError` when the split has no identities.
        """
        if self.ids is None:
            raise DataError("This split has no identities, so it cannot be trained on with labels.")
        return np.unique(self.ids, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def counts(self) -> dict[str, int]:
        """How many images, identities (0 if unlabelled) and cameras (0 if none is known)."""
        cameras = np.unique(self.cameras)
        return {
            "images": len(self),
            "ids": 0 if self.ids is None else len(np.unique(self.ids)),
            "cameras": int((cameras >= 0).sum()),
        }


class Dataset:
    """A domain: ``train``, ``query`` and ``gallery``, and where they come from.

    A subclass sets ``name``, ``version`` and ``root``, the three splits, and counts in ``dropped`` and ``distractors``
    what its rules left out, and what is in the gallery though nobody is looking for it.
    """

    name: str
    version: str = ""
    root: str
    train: Split
    query: Split
    gallery: Split
    dropped: dict[str, int]
    distractors: int = 0

    def card(self) -> dict[str, Any]:
        """What a result must say of its data: name, version, the counts of each split, what was left out."""
        return {
            "name": self.name,
            "version": self.version,
            **{split: getattr(self, split).counts() for split in ("train", "query", "gallery")},
            "dropped": dict(self.dropped),
            "distractors": self.distractors,
        }


class MarketGrammar(Dataset):
    """A folder in Market-1501's grammar: one folder for each split, names ``PPPP_cC….jpg``.

    Id -1 is junk: dropped and counted. Id 0 is background: a distractor that stays in the gallery, as nobody's
    match, and is dropped elsewhere. Cameras 1..n become 0..n-1. Only the file's own name is read, since a folder
    may well be called ``2024_c3``. Hidden files and others than ``.jpg`` (``Thumbs.db``) are not images.

    Raises :class:`DataError` for a missing or empty folder, a name that does not parse, a camera out of range.
    """

    folders: ClassVar[Mapping[str, str]] = {
        "train": "bounding_box_train",
        "query": "query",
        "gallery": "bounding_box_test",
    }
    places: ClassVar[tuple[str, ...]] = (".",)
    """Where under the given root the folders may lie, in the order of looking."""
    camera_count: ClassVar[int | None] = None
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"(-1|\d+)_c(\d+)")

    def __init__(self, root: str) -> None:
        base = self._locate(Path(root).expanduser())
        self.root = str(base)
        self.dropped = {"junk": 0, "background": 0}
        self.train, self.query, self.gallery = (self._read(base / self.folders[s], s) for s in self.folders)

    def _locate(self, root: Path) -> Path:
        def missing(base: Path) -> list[str]:
            return [folder for folder in self.folders.values() if not (base / folder).is_dir()]

        bases = [root / place for place in self.places]
        for base in bases:
            if not missing(base):
                return base
        halves = [base for base in bases if len(missing(base)) < len(self.folders)]
        if halves:
            raise DataError(
                f"{self.name} at {halves[0]} is not whole: it lacks {', '.join(missing(halves[0]))}."
            )
        raise DataError(
            f"{self.name} is not at {root}. Looked for the folders {', '.join(self.folders.values())} in: "
            f"{', '.join(map(str, bases))}. Set the data set's root to the folder that holds them."
        )

    def _read(self, folder: Path, split: str) -> Split:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.name.endswith(".jpg") and not e.name.startswith("."))
        rows: list[tuple[str, int, int]] = []
        for name in names:
            match = self.pattern.match(name)
            if match is None:
                raise DataError(
                    f"{folder / name}: the name does not say who and which camera; "
                    f"{self.name} expects names such as 0002_c1s1_000451_03.jpg."
                )
            pid, camera = int(match[1]), int(match[2])
            if camera < 1 or (self.camera_count is not None and camera > self.camera_count):
                raise DataError(
                    f"{folder / name}: camera {camera} is out of range; "
                    f"{self.name} has cameras 1 to {self.camera_count or 'n'}."
                )
            if pid == -1:
                self.dropped["junk"] += 1
            elif pid == 0 and split != "gallery":
                self.dropped["background"] += 1
            else:
                self.distractors += pid == 0
                rows.append((f"{folder}{os.sep}{name}", pid, camera - 1))
        if not rows:
            what = "only junk and background" if names else "no .jpg image"
            raise DataError(f"{self.name}: {folder} has {what}.")
        paths, ids, cameras = zip(*rows, strict=True)
        return Split(list(paths), np.array(ids, np.int64), np.array(cameras, np.int64))


class Market1501(MarketGrammar):
    """Market-1501 (Zheng et al., ICCV 2015): 12,936 training, 3,368 query and 15,913 gallery images without junk.

    ``root`` is the data set's own folder, or the one above it in any customary layout: ``Market-1501-v15.09.15``,
    ``market1501``, ``market1501/Market-1501-v15.09.15``.
    """

    name = "Market-1501"
    version = "v15.09.15"
    places = (".", "Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15")
    camera_count = 6


class Synthetic(MarketGrammar):
    """A rendered domain, ``source`` or ``target``, drawn into ``root/DOMAIN-seedSEED`` when it is not there yet.

    ``identities`` are those of the training and of the test split, each seen ``images_per_camera`` times by each of
    ``cameras`` cameras; ``size`` is (height, width) in pixels. ``progress(done, total)`` is called while it is drawn.

    Raises :class:`DataError` for arguments that make no benchmark, or when that folder holds something else.
    """

    def __init__(
        self,
        root: str = "data/synthetic",
        domain: str = "source",
        identities: tuple[int, int] = (150, 60),
        images_per_camera: int = 4,
        cameras: int = 4,
        size: tuple[int, int] = (128, 64),
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        from reidx.data.synthetic.domain import VERSION, render_domain

        self.name = f"Synthetic {domain}"
        self.version = f"v{VERSION} seed {seed}"
        folder = Path(root).expanduser() / f"{domain}-seed{seed}"
        train, test = identities
        height, width = size
        render_domain(
            folder,
            domain,
            identities=(train, test),
            images_per_camera=images_per_camera,
            cameras=cameras,
            size=(height, width),
            seed=seed,
            progress=progress,
        )
        super().__init__(str(folder))


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
