"""MARS, tracklets of people: names of all frames, and MATLAB tables of the tracklets of each split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from reidx.data.datasets.base import PASSED_OVER, Dataset, Facts, Split
from reidx.data.datasets.folder import files_in
from reidx.data.datasets.inspection import file_or_line
from reidx.data.datasets.lists import read_lines
from reidx.errors import DataError

FRAME = re.compile(r"(00-1|\d{4})C([1-6])T\d+F\d+\.jpg", re.ASCII)
"""A frame's name: the person (``00-1`` is junk, ``0000`` a distractor), the camera, the tracklet, the number of the frame."""
JUNK = -1
INFO = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")


class MARS(Dataset):
    """MARS, tracklets of people in video, seen by 6 cameras.

    MARS (Zheng et al., ECCV 2016). Folders ``bbox_train`` and ``bbox_test`` with a folder for each person, names
    ``PPPPCcTttttFfff.jpg``; ``info/{train,test}_name.txt`` lists the frames, ``info/tracks_{train,test}_info.mat`` the first
    and last frame, person and camera of each tracklet, and ``info/query_IDX.mat`` the tracklets of the test that are queries.

    The images of a split are the frames of its tracklets, the column ``track`` is the number of the tracklet, from 0. Protocol
    ``Grouped`` (``query: track``, ``gallery: track``) ranks tracklets. Tracklets of junk (person ``00-1``) are dropped and
    counted; distractors (``0000``) stay in the gallery. With ``gallery: all``, as in the authors' evaluation, the query
    tracklets are part of the gallery, where they match queries from other cameras; ``gallery: rest`` leaves them out, as in
    torchreid. Results of the two are not comparable.

    ``root`` is the data set's own folder or one above: ``mars``, ``MARS``.

    Raises :class:`DataError` for a missing folder, list, table or frame, and for a tracklet whose frames do not fit its row.
    """

    name = "MARS"
    columns: ClassVar[tuple[str, ...]] = ("track",)
    places: ClassVar[tuple[str, ...]] = (".", "mars", "MARS")
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("bbox_train", "bbox_test", *(f"info/{name}" for name in INFO))}
    facts = Facts(
        "http://www.liangzheng.com.cn/Project/project_mars.html",
        "mars/\n"
        "  bbox_train/0001/  0001C1T0001F001.jpg: person, camera, tracklet, frame\n"
        "  bbox_test/0002/   in 00-1 is junk, in 0000 are distractors\n"
        f"  info/             {', '.join(INFO[:3])},\n"
        f"                    {', '.join(INFO[3:])}",
    )
    remarks: list[str]

    def __init__(self, root: str, gallery: Literal["all", "rest"] = "all") -> None:
        _, base = self.locate(root)[0]
        self.root, self.in_gallery = str(base), gallery
        self.dropped, self.remarks = {"frames of junk": 0}, []
        tested = _Tracklets.read(base, "test")
        queries = self._queries(base / "info/query_IDX.mat", len(tested.rows))
        others = np.arange(len(tested.rows))
        if gallery == "rest":
            others = np.setdiff1d(others, queries)
        learnt = _Tracklets.read(base, "train")
        self.train = self._split(learnt, np.arange(len(learnt.rows)))
        self.query, self.gallery = self._split(tested, queries), self._split(tested, others)
        for side, split in (("query", self.query), ("gallery", self.gallery)):
            if not len(split):
                raise DataError(f"{self.name}: {base} has no {side} tracklet of a person.")
        for tracklets in (learnt, tested):
            if left := tracklets.frames_in_none():
                self.dropped[PASSED_OVER] = self.dropped.get(PASSED_OVER, 0) + left
                self.remarks.append(f"{tracklets.listed}: passed over {left:,} frames that are in no tracklet")

    def camera_number(self, camera: int) -> int:
        return camera + 1

    def card(self) -> dict[str, Any]:
        """The usual card, with the tracklets of the gallery and the number of tracklets of each split."""
        splits = {name: getattr(self, name) for name in ("train", "query", "gallery")}
        tracklets = {name: len(np.unique(split.columns["track"])) for name, split in splits.items()}
        return {**super().card(), "tracklets": tracklets, "gallery_tracklets": self.in_gallery}

    def _queries(self, path: Path, tracklets: int) -> np.ndarray:
        """The positions of the query tracklets, from 0."""
        numbers = _table(path, "query_IDX").reshape(-1)
        if not len(numbers) or numbers.min() < 1 or numbers.max() > tracklets:
            raise DataError(f"{path}: query_IDX must number some of the {tracklets:,} tracklets of the test, from 1.")
        return numbers - 1

    def _split(self, tracklets: _Tracklets, chosen: np.ndarray) -> Split:
        """The frames of some tracklets, without junk."""
        rows: list[tuple[str, int, int, int]] = []
        for track, names, person, camera in tracklets.frames(chosen):
            if person == JUNK:
                self.dropped["frames of junk"] += len(names)
                continue
            folder = f"{tracklets.folder}{os.sep}{person:04d}{os.sep}"
            rows += [(folder + name, person, camera - 1, track) for name in names]
        return Split.of(rows, *self.columns)


class _Tracklets(NamedTuple):
    """The frames of ``bbox_train`` or ``bbox_test``, and their tracklets."""

    folder: Path
    listed: Path
    table: Path
    names: list[str]
    rows: np.ndarray
    """First and last frame (from 1), person and camera of each tracklet (N, 4)."""
    present: dict[str, frozenset[str]]
    """Names of the files in the folder of each person, as far as they have been read."""

    @classmethod
    def read(cls, base: Path, split: str) -> _Tracklets:
        listed, table = base / f"info/{split}_name.txt", base / f"info/tracks_{split}_info.mat"
        rows = _table(table, f"track_{split}_info")
        if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
            raise DataError(f"{table}: track_{split}_info is of shape {rows.shape}, not (tracklets, 4).")
        names = [line.strip() for line in read_lines(listed)]
        while names and not names[-1]:  # a blank line elsewhere is an error, as rows number the lines
            names.pop()
        return cls(base / f"bbox_{split}", listed, table, names, rows, {})

    def frames_in_none(self) -> int:
        """Number of listed frames that are in no tracklet."""
        covered = np.zeros(len(self.names), np.bool_)
        for first, last in self.rows[:, :2].tolist():
            covered[first - 1 : last] = True
        return int((~covered).sum())

    def frames(self, chosen: np.ndarray) -> Iterator[tuple[int, list[str], int, int]]:
        """Number, frames, person and camera of some tracklets, each checked against its row and the files."""
        for track in chosen.tolist():
            first, last, person, camera = self.rows[track].tolist()
            where = f"{self.table}, row {track + 1}"
            if not 1 <= first <= last <= len(self.names):
                raise DataError(f"{where}: frames {first} to {last} are not among the {len(self.names):,} of {self.listed}.")
            names = []
            for number, name in enumerate(self.names[first - 1 : last], start=first):
                line = f"{self.listed}, line {number}"
                with file_or_line(line):
                    self._check(name, line, where, person, camera)
                    names.append(name)
            yield track, names, person, camera

    def _check(self, name: str, line: str, where: str, person: int, camera: int) -> None:
        match = FRAME.fullmatch(name)
        if match is None:
            raise DataError(f"{line}: {name!r} is not the name of a frame, such as 0001C1T0001F001.jpg.")
        shown = JUNK if match[1] == "00-1" else int(match[1])
        if (shown, int(match[2])) != (person, camera):
            raise DataError(
                f"{where}: the tracklet is of person {person} and camera {camera}, but its frame {name} ({line}) is of person "
                f"{shown} and camera {match[2]}. Get the info folder of the same release as the images."
            )
        if match[1] not in self.present:
            folder = self.folder / match[1]
            self.present[match[1]] = files_in(folder) if folder.is_dir() else frozenset()
        if name not in self.present[match[1]]:
            raise DataError(f"{line}: there is no file {self.folder / match[1] / name}. Unpack the images again.")


def _table(path: Path, name: str) -> np.ndarray:
    """A table of whole numbers in a MATLAB file."""
    from scipy.io import loadmat  # only this data set needs it

    try:
        found = loadmat(path, variable_names=[name])
    except Exception as error:  # a damaged file raises errors of many kinds
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}.") from error
    if name not in found:
        raise DataError(f"{path} has no table {name}.")
    table = np.asarray(found[name])
    if table.dtype.kind not in "iuf" or not np.array_equal(table, np.floor(table)):
        raise DataError(f"{path}: {name} must hold whole numbers; it holds {table.dtype}.")
    return table.astype(np.int64)
