"""VehicleID, vehicles without cameras: one folder of images and lists of the vehicles of each split."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from reidx.data.datasets.base import Dataset, Facts, Split, parse_number
from reidx.data.datasets.inspection import file_or_line
from reidx.data.datasets.lists import check_listed, read_list

LINE = re.compile(r"([\w-]+)(?:\.jpg)?\s+(\d+)", re.ASCII)
"""A line of a list: the name of an image without its suffix, and the vehicle."""
SIZES = (800, 1600, 2400, 3200, 6000, 13164)


class VehicleID(Dataset):
    """VehicleID, vehicles seen from front or rear; cameras unknown.

    VehicleID (Liu et al., CVPR 2016). All images are in ``image``; lines ``NAME VEHICLE`` in
    ``train_test_split/{train_list,test_list_N}.txt``. ``vehicles`` is the number N of vehicles in the test: 800, 1600 and 2400
    are the small, medium and large test of the paper.

    Query and gallery are the same images, all those of the test list. The protocol draws one of each vehicle as the gallery,
    and the others are the queries: ``{type: SingleGalleryShot, camera_filter: false, rest: true}``. Code that invents cameras
    to get a single gallery reports other numbers.

    ``root`` is the data set's own folder or one above: ``VehicleID_V1.0``, ``VehicleID``, ``vehicleid``, also the latter with
    ``VehicleID_V1.0`` inside.

    Raises :class:`DataError` for a missing folder, list or image, and for a line that does not parse, by its number.
    """

    name = "VehicleID"
    places: ClassVar[tuple[str, ...]] = (".", "VehicleID_V1.0", "VehicleID", "vehicleid", "vehicleid/VehicleID_V1.0")
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("image", "train_test_split/train_list.txt")}
    facts = Facts(
        "https://www.pkuml.org/resources/pku-vehicleid.html",
        "VehicleID_V1.0/\n"
        "  image/             0000001.jpg\n"
        "  train_test_split/  train_list.txt, test_list_N.txt;\n"
        f"                     N is {', '.join(map(str, SIZES))}",
    )

    def __init__(self, root: str, vehicles: Literal[800, 1600, 2400, 3200, 6000, 13164] = 800) -> None:
        if vehicles not in SIZES:
            raise ValueError(f"vehicles is {vehicles}; the tests have {', '.join(map(str, SIZES))} vehicles")
        lists = [f"train_test_split/{name}.txt" for name in ("train_list", f"test_list_{vehicles}")]
        _, base = self.locate(root, {"": ("image", *lists)})[0]
        self.root, self.dropped = str(base), {}
        self.version = self.variant = f"test of {vehicles} vehicles"
        self.train, self.query = (_read(base / "image", base / name) for name in lists)
        self.gallery = self.query


def _read(folder: Path, table: Path) -> Split:
    """The images of a list, without cameras."""
    places: dict[str, str] = {}
    rows = []
    for where, line in read_list(table, LINE, "0000001 1"):
        path = f"{folder}{os.sep}{line[1]}.jpg"
        with file_or_line(path):
            check_listed(path, where, places)
            rows.append((path, parse_number(line[2], "the vehicle", where), -1))
    return Split.of(rows)
