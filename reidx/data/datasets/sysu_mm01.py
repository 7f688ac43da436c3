"""SYSU-MM01, visible and infrared images: a folder for each camera and person, lists of the people of each split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from reidx.data.datasets.base import Counts, Dataset, Facts, Split, parse_number
from reidx.data.datasets.folder import read_folder
from reidx.data.datasets.inspection import file_or_line
from reidx.data.datasets.lists import read_lines
from reidx.errors import DataError

VISIBLE, INFRARED = 0, 1
"""Values of the column ``modality``."""
CAMERAS = {"visible": (1, 2, 4, 5), "infrared": (3, 6), "both": (1, 2, 3, 4, 5, 6)}
"""Camera numbers of each modality."""


class SYSUMM01(Dataset):
    """SYSU-MM01, people seen by four visible and two infrared cameras.

    SYSU-MM01 (Wu et al., ICCV 2017). Folders ``cam1`` to ``cam6``, in each a folder for each person (``0007``), and the
    people of each split in ``exp/{train,val,test}_id.txt``, one line with commas. Cameras 3 and 6 are infrared.

    Training images are those of the people in the train and val lists, as in published results: 395 people. ``modality``
    selects them: the ``visible`` or the ``infrared`` ones, a domain each for unsupervised methods, or ``both``. The test has
    96 other people: the queries are all infrared images (3,803), the gallery all visible ones, from which the protocol
    ``SYSUMM01`` draws its galleries. The images of a split are in the order of person, camera and file name, on which these
    draws depend.

    The column ``modality`` is 0 for visible and 1 for infrared images. ``root`` is the data set's own folder or one above:
    ``SYSU-MM01``, ``sysu``.

    Raises :class:`DataError` for a missing folder or list, a person in two lists, or a split without images.
    """

    name = "SYSU-MM01"
    columns: ClassVar[tuple[str, ...]] = ("modality",)
    places: ClassVar[tuple[str, ...]] = (".", "SYSU-MM01", "sysu", "sysu/SYSU-MM01")
    remarks: list[str]
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": (
            *(f"cam{camera}" for camera in CAMERAS["both"]),
            *(f"exp/{split}_id.txt" for split in ("train", "val", "test")),
        )
    }
    facts = Facts(
        "https://www.isee-ai.cn/project/RGBIRReID.html",
        "SYSU-MM01/\n"
        "  cam1/0007/  0001.jpg: a folder for each camera and person\n"
        "  cam2/ … cam6/\n"
        "  exp/        train_id.txt, val_id.txt, test_id.txt: people, with commas",
        {"": {"train": Counts(None, 395), "query": Counts(3_803, 96), "gallery": Counts(None, 96)}},
    )

    def __init__(self, root: str, modality: Literal["visible", "infrared", "both"] = "both") -> None:
        _, base = self.locate(root)[0]
        self.root, self.modality = str(base), modality
        self.dropped, self.remarks = {}, []
        split_of: dict[int, str] = {}
        for path in (base / f"exp/{split}_id.txt" for split in ("train", "val", "test")):
            for person in _people(path):
                with file_or_line(path):
                    if person in split_of:
                        raise DataError(
                            f"{path}: person {person} is in {split_of[person]}, too. Drop the person from one of the lists."
                        )
                    split_of[person] = path.name
        learnt = [person for person, split in split_of.items() if split != "test_id.txt"]
        tested = [person for person, split in split_of.items() if split == "test_id.txt"]
        self.train = self._read(base, learnt, modality)
        self.query, self.gallery = (self._read(base, tested, side) for side in ("infrared", "visible"))

    def camera_number(self, camera: int) -> int:
        return camera + 1

    def card(self) -> dict[str, Any]:
        """The usual card, with the modality of the training images."""
        return {**super().card(), "train_modality": self.modality}

    def _read(self, base: Path, people: Iterable[int], modality: str) -> Split:
        rows = []
        for person in sorted(people):
            for camera in CAMERAS[modality]:
                folder = base / f"cam{camera}" / f"{person:04d}"
                if not folder.is_dir():  # not every camera saw each person
                    continue
                names = read_folder(folder, self.dropped, self.remarks).names
                value = INFRARED if camera in CAMERAS["infrared"] else VISIBLE
                rows += [(str(folder / name), person, camera - 1, value) for name in names]
        if not rows:
            numbers = ", ".join(map(str, CAMERAS[modality]))
            raise DataError(f"{self.name}: {base} has no image of the listed people from cameras {numbers}.")
        if unseen := set(people) - {row[1] for row in rows}:
            kind = "" if modality == "both" else f"{modality} "
            self.remarks.append(f"{len(unseen):,} of {len(set(people)):,} listed people have no {kind}image")
        return Split.of(rows, *self.columns)


def _people(path: Path) -> list[int]:
    """The numbers in a list of people; raises :class:`DataError` unless it has some, separated by commas."""
    entries = [entry.strip() for line in read_lines(path) for entry in line.split(",") if entry.strip()]
    if wrong := [entry for entry in entries if not re.fullmatch(r"\d+", entry, re.ASCII)]:
        raise DataError(f"{path}: {wrong[0]!r} is not a person's number; the list looks like 1,2,4,5.")
    if not entries:
        raise DataError(f"{path} lists no people.")
    return [parse_number(entry, "a person's number", str(path)) for entry in entries]
