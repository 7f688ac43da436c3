"""MSMT17 in its two versions, as published (lists) or re-packed (folders in Market-1501's grammar)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from reidx.data.datasets.base import PASSED_OVER, Counts, Dataset, Facts, Split, parse_number
from reidx.data.datasets.inspection import file_or_line
from reidx.data.datasets.lists import check_listed, read_lines, read_list
from reidx.data.datasets.market import MarketGrammar
from reidx.data.decode import is_image
from reidx.errors import DataError

CAMERAS = range(1, 16)
IMAGES: Mapping[str, tuple[str, str]] = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
"""Image folders of each version, which distinguish the versions."""
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
REPACKED = "re-packed"
LINE = re.compile(r"((?:[^/]+/)*[^/_]+_[^/_]+_(\d+)_[^/]+\.jpg)\s+(\d+)", re.ASCII)
"""A line of a list: the path below the image folder, whose file name has the camera as third field, and the identity."""
TESTED = {"query": Counts(11_659, 3_060), "gallery": Counts(82_161, 3_060)}
NOT_COMPARABLE = "V2 has blurred faces; results on the two lie 3 to 4 mAP apart and are not comparable"


class MSMT17(Dataset):
    """MSMT17, the largest usual benchmark: 4,101 people, 15 cameras.

    MSMT17 (Wei et al., CVPR 2018). The version is checked where the folders reveal it, and stated on the card.

    As published, a folder holds ``list_{train,val,query,gallery}.txt`` and the images: ``train``, ``test`` (V1) or
    ``mask_train_v2``, ``mask_test_v2`` (V2: faces blurred). ``version: auto`` takes the one present. A copy re-packed as
    ``bounding_box_train``, ``query``, ``bounding_box_test`` with names ``PPPP_cNN….jpg`` is read if nothing else is
    there; it does not reveal its version, which must be stated, and its training images are used as packed.

    ``train: trainval`` trains on list_train and list_val (32,621 images of 1,041 people), as published unsupervised
    results do; ``train: train`` on list_train alone (30,248). The test has 11,659 query and 82,161 gallery images of
    3,060 others; 15 cameras. Identities are those of the lists, counted from 0 (an ordinary person), and numbered
    separately for training and test: the same number means a different person in query and gallery.

    ``root`` is the data set's own folder, or one above: ``MSMT17_V1``, ``MSMT17_V2``, ``MSMT17``, ``msmt17``, also the
    latter with one of the former two inside.

    Raises :class:`DataError` for a version that is absent, ambiguous or unknown; for a missing folder, list or image; and
    for a line that does not parse, by its number.
    """

    name = "MSMT17"
    facts = Facts(
        "http://www.pkuvmc.com/publications/msmt17.html",
        "MSMT17_V1/ (or MSMT17_V2/)\n"
        "  train/ (mask_train_v2/)  0000/0000_000_01_0303morning_0015_0.jpg:\n"
        "  test/  (mask_test_v2/)   person, image, camera, time\n"
        "  list_train.txt, list_val.txt, list_query.txt, list_gallery.txt\n"
        "or re-packed\n"
        "  bounding_box_train/      0000_c01….jpg: person, camera\n"
        "  query/\n"
        "  bounding_box_test/",
        {"trainval": {"train": Counts(32_621, 1_041), **TESTED}, "train": {"train": Counts(30_248, 1_041), **TESTED}},
    )
    separate_ids = True
    places: ClassVar[tuple[str, ...]] = (
        ".",
        *("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17", "msmt17/MSMT17_V1", "msmt17/MSMT17_V2"),
    )
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **{version: (*folders, *LISTS) for version, folders in IMAGES.items()},
        REPACKED: tuple(MarketGrammar.folders.values()),
    }

    def __init__(
        self,
        root: str,
        version: Literal["V1", "V2", "auto"] = "auto",
        train: Literal["trainval", "train"] = "trainval",
    ) -> None:
        layout, base = _choose(self.locate(root), version)
        self.root, self.variant = str(base), train
        if layout == REPACKED:
            if train != "trainval":
                raise DataError(
                    f"MSMT17 at {base} is re-packed: its folders do not separate the images of list_val from the others. "
                    "Set train: trainval, or give the published folder with its lists."
                )
            packed = _Repacked(self.root)
            self.version, self.layout = version, "re-packed folders, version as stated"
            self.lists = MarketGrammar.folders["train"]
            self.train, self.query, self.gallery = packed.train, packed.query, packed.gallery
            self.dropped, self.remarks = packed.dropped, packed.remarks
        else:
            learnt, tested = (base / folder for folder in IMAGES[layout])
            parts = ("train", "val") if train == "trainval" else ("train",)
            self.version, self.layout = layout, "published lists"
            self.lists = " + ".join(f"list_{part}" for part in parts)
            self.train = _read(learnt, *(base / f"list_{part}.txt" for part in parts))
            self.query, self.gallery = (
                _read(tested, base / f"list_{part}.txt") for part in ("query", "gallery")
            )
            self.dropped, self.remarks = _unlisted(base, IMAGES[layout])

    def camera_number(self, camera: int) -> int:
        return CAMERAS[camera]

    def card(self) -> dict[str, Any]:
        """The usual card, with the layout and the lists of the training images."""
        return {**super().card(), "layout": self.layout, "train_lists": self.lists}


class _Repacked(MarketGrammar):
    """The copy in Market-1501's grammar."""

    name = "MSMT17"
    camera_numbers = CAMERAS
    background = False
    example = "0000_c01….jpg"


def _choose(found: list[tuple[str, Path]], version: str) -> tuple[str, Path]:
    """The (layout, folder) of the requested version; raises :class:`DataError` if it is missing or ambiguous."""
    told = [(layout, base) for layout, base in found if layout != REPACKED]
    fitting = [(layout, base) for layout, base in told if version in (layout, "auto")]
    if len({layout for layout, _ in fitting}) > 1:
        places = " and ".join(f"{layout} at {base}" for layout, base in fitting)
        raise DataError(f"There is MSMT17 {places}. Set version: V1 or version: V2.")
    if fitting:
        return fitting[0]
    if told:
        there, base = told[0]
        raise DataError(
            f"MSMT17 at {base} is {there} (its folders are {' and '.join(IMAGES[there])}), but version is {version}. "
            f"Set version: {there}, or give the folder of {version}. {NOT_COMPARABLE}."
        )
    if version == "auto":
        with file_or_line(found[0][1]):
            raise DataError(
                f"MSMT17 at {found[0][1]} is re-packed: its folders do not reveal its version. State the version of the "
                f"original: version: V1 or version: V2. {NOT_COMPARABLE}."
            )
    return found[0]


def _read(folder: Path, *lists: Path) -> Split:
    """The images of some lists, in ``folder``, with cameras from 0."""
    places: dict[str, str] = {}
    rows = []
    for table in lists:
        for where, line in read_list(table, LINE, "0000/0000_000_01_0303morning_0015_0.jpg 0"):
            path = f"{folder}{os.sep}{line[1]}"
            with file_or_line(path):
                camera = parse_number(line[2], "the camera", where)
                if camera not in CAMERAS:
                    raise DataError(f"{where}: camera {camera} is out of range; MSMT17 has cameras 1 to {CAMERAS[-1]}.")
                check_listed(path, where, places)
                rows.append((path, parse_number(line[3], "the identity", where), camera - 1))
    return Split.of(rows)


def _unlisted(base: Path, folders: tuple[str, str]) -> tuple[dict[str, int], list[str]]:
    """Counts of the images that no list names, and a sentence on them for each of the two folders."""
    dropped: dict[str, int] = {}
    remarks = []
    for folder, lists in zip(folders, (LISTS[:2], LISTS[2:])):
        listed = {line.split()[0] for name in lists for line in read_lines(base / name) if line.strip()}
        top = base / folder
        found = (os.path.relpath(os.path.join(at, name), top) for at, _, names in os.walk(top) for name in names)
        unlisted = sum(is_image(path) and path.replace(os.sep, "/") not in listed for path in found)
        if unlisted:
            dropped[PASSED_OVER] = dropped.get(PASSED_OVER, 0) + unlisted
            remarks.append(f"{top}: passed over {unlisted:,} images that are in no list")
    return dropped, remarks
