"""RegDB, pairs of visible and infrared (thermal) images, in the lists of its ten trials."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from reidx.data.datasets.base import Counts, Dataset, Facts, Split, parse_number
from reidx.data.datasets.inspection import file_or_line
from reidx.data.datasets.lists import check_listed, read_list
from reidx.data.datasets.sysu_mm01 import INFRARED, VISIBLE

TRIALS = range(1, 11)
LINE = re.compile(r"(\S+)\s+(\d+)", re.ASCII)
"""A line of a list: the path below the data set's folder and the identity."""
EXAMPLE = "Visible/1/male_front_v_00012_1.bmp 0"


class RegDB(Dataset):
    """RegDB, people seen by a visible and a thermal camera.

    RegDB (Nguyen et al., Sensors 2017), ten visible and ten infrared images of each person. Folders ``Visible`` and
    ``Thermal``, and the lists of ten trials, ``idx/{train,test}_{visible,thermal}_{1..10}.txt``. ``trial`` chooses one: 206
    people for training and 206 others for the test. Results are averages over the ten trials, so they need ten trainings.

    ``modality`` selects the training images: the ``visible`` or the ``infrared`` ones, a domain each for unsupervised
    methods, or ``both``. ``query`` is the modality of the queries; the other one is the gallery, and every image of it counts
    (protocol ``NoCameraFilter``). Identities are those of the lists, numbered separately for training and test. Camera 1 is
    visible, camera 2 infrared; the column ``modality`` is 0 and 1.

    ``root`` is the data set's own folder or one above: ``RegDB``, ``regdb``.

    Raises :class:`DataError` for a missing folder, list or image, and for a line that does not parse, by its number.
    """

    name = "RegDB"
    columns: ClassVar[tuple[str, ...]] = ("modality",)
    places: ClassVar[tuple[str, ...]] = (".", "RegDB", "regdb")
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("Visible", "Thermal", "idx")}
    separate_ids = True
    facts = Facts(
        "http://dm.dongguk.edu/link.html",
        "RegDB/\n"
        "  Visible/1/  male_front_v_00012_1.bmp: a folder for each person\n"
        "  Thermal/1/\n"
        "  idx/        train_visible_1.txt … train_visible_10.txt, and the same of\n"
        "              train_thermal, test_visible and test_thermal",
        {
            kind: {"train": Counts(images, 206), "query": Counts(2_060, 206), "gallery": Counts(2_060, 206)}
            for kind, images in (("both", 4_120), ("visible", 2_060), ("infrared", 2_060))
        },
    )

    def __init__(
        self,
        root: str,
        trial: int = 1,
        modality: Literal["visible", "infrared", "both"] = "both",
        query: Literal["visible", "infrared"] = "visible",
    ) -> None:
        if trial not in TRIALS:
            raise ValueError(f"trial is {trial}; the trials are {TRIALS[0]} to {TRIALS[-1]}.")
        lists = [f"idx/{split}_{kind}_{trial}.txt" for split in ("train", "test") for kind in ("visible", "thermal")]
        _, base = self.locate(root, {"": ("Visible", "Thermal", *lists)})[0]
        self.root, self.version, self.dropped = str(base), f"trial {trial}", {}
        self.modality = self.variant = modality
        self.direction = f"{query} to {'infrared' if query == 'visible' else 'visible'}"
        learnt, tested = ({kind: base / f"idx/{split}_{kind}_{trial}.txt" for kind in KINDS} for split in ("train", "test"))
        self.train = _read(base, learnt, modality)
        self.query, self.gallery = (_read(base, tested, side) for side in self.direction.split(" to "))

    @classmethod
    def repeats(cls, **arguments: Any) -> tuple[str, Sequence[int]]:
        """The ten trials."""
        return "trial", TRIALS

    def camera_number(self, camera: int) -> int:
        return camera + 1

    def card(self) -> dict[str, Any]:
        """The usual card, with the modality of the training images and the direction of the test."""
        return {**super().card(), "train_modality": self.modality, "direction": self.direction}


KINDS = {"visible": VISIBLE, "thermal": INFRARED}
"""Modality of each kind of list."""


def _read(base: Path, lists: dict[str, Path], modality: str) -> Split:
    """The images of the lists of a modality, or of both."""
    places: dict[str, str] = {}
    rows = []
    for kind, value in KINDS.items():
        if modality not in ("both", "visible" if value == VISIBLE else "infrared"):
            continue
        for where, line in read_list(lists[kind], LINE, EXAMPLE):
            path = str(base / line[1])
            with file_or_line(path):
                check_listed(path, where, places)
                rows.append((path, parse_number(line[2], "the identity", where), value, value))
    return Split.of(rows, *RegDB.columns)
