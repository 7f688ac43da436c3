"""VERI-Wild, vehicles in surveillance: a folder for each vehicle, lists of the splits, and a table with the cameras."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from reidx.data.datasets.base import Dataset, Facts, Split, parse_number
from reidx.data.datasets.inspection import file_or_line
from reidx.data.datasets.lists import check_listed, read_list
from reidx.errors import DataError

LINE = re.compile(r"(\d+)/([\w-]+?)(?:\.jpg)?(?:\s+\d+)*", re.ASCII)
"""A line of a list: vehicle and image; numbers that follow in some releases are not read."""
INFO = re.compile(rb"(\d+)/([\w-]+);(\d+);")
"""Start of a line of ``vehicle_info.txt``: vehicle, image and camera."""
SIZES = {"small": 3000, "medium": 5000, "large": 10000}
TABLE = "train_test_split/vehicle_info.txt"


class VERIWild(Dataset):
    """VERI-Wild, vehicles on the streets of a district, by many cameras.

    VERI-Wild (Lou et al., CVPR 2019). Folders ``images/VEHICLE``, lists ``train_list``, ``test_N_query`` and ``test_N`` in
    ``train_test_split`` with lines ``VEHICLE/IMAGE``, and cameras in ``vehicle_info.txt``, lines ``VEHICLE/IMAGE;CAMERA;…``.
    Lists under the names ``train_list_start0``, ``test_N_id_query`` and ``test_N_id`` are read, too. ``test`` is ``small``
    (N is 3000 vehicles), ``medium`` (5000) or ``large`` (10000). Images of the query's own vehicle and camera are ignored
    (protocol ``Market1501``), as the authors state for the paper; their first released test code did not do so.

    ``root`` is the data set's own folder or one above: ``VERI-Wild``, ``VeRI-Wild``, ``veri-wild``.

    Raises :class:`DataError` for a missing folder, list or image, for an image without a camera, and for a line that does not
    parse, by its number.
    """

    name = "VERI-Wild"
    places: ClassVar[tuple[str, ...]] = (".", "VERI-Wild", "VeRI-Wild", "veri-wild")
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("images", TABLE)}
    facts = Facts(
        "https://github.com/PKU-IMRE/VERI-Wild",
        "VERI-Wild/\n"
        "  images/00001/      000001.jpg: a folder for each vehicle\n"
        "  train_test_split/  vehicle_info.txt, train_list.txt, test_N_query.txt,\n"
        "                     test_N.txt; N is 3000, 5000, 10000",
    )

    def __init__(self, root: str, test: Literal["small", "medium", "large"] = "small") -> None:
        if test not in SIZES:
            raise ValueError(f"test is {test!r}; choose one of {', '.join(SIZES)}")
        _, base = self.locate(root)[0]
        count = SIZES[test]
        self.root, self.dropped = str(base), {}
        self.version = self.variant = f"{test} test"
        named = (
            ("train_list.txt", "train_list_start0.txt"),
            (f"test_{count}_query.txt", f"test_{count}_id_query.txt"),
            (f"test_{count}.txt", f"test_{count}_id.txt"),
        )
        lists = [_present(base / "train_test_split", names) for names in named]
        cameras = _cameras(base / TABLE)
        self.train, self.query, self.gallery = (_read(base, path, cameras) for path in lists)


def _present(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that exists."""
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise DataError(f"VERI-Wild: {folder} lacks {' (or '.join(names)}). Get the lists from the data set's authors.")
    return found[0]


def _cameras(table: Path) -> dict[tuple[str, str], int]:
    """The camera of each vehicle's image; the first line may be a header. Its further values may be in any encoding."""
    cameras = {}
    try:
        lines = table.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{table} cannot be read as a list: {error}.") from error
    for number, line in enumerate(lines, start=1):
        match = INFO.match(line.strip())
        if match is not None:
            vehicle, image, camera = (part.decode() for part in match.groups())
            cameras[vehicle, image] = parse_number(camera, "the camera", f"{table}, line {number}")
        elif line.strip() and number > 1:
            shown = line[:60].decode(errors="replace")
            raise DataError(f"{table}, line {number}: {shown!r} does not give an image and its camera (00001/000001;23;…).")
    return cameras


def _read(base: Path, table: Path, cameras: dict[tuple[str, str], int]) -> Split:
    """The images of a list."""
    places: dict[str, str] = {}
    rows = []
    for where, line in read_list(table, LINE, "00001/000001"):
        path = os.path.join(str(base), "images", line[1], f"{line[2]}.jpg")
        with file_or_line(path):
            check_listed(path, where, places)
            if (line[1], line[2]) not in cameras:
                raise DataError(f"{where}: image {line[1]}/{line[2]} has no camera in {base / TABLE}.")
            rows.append((path, parse_number(line[1], "the vehicle", where), cameras[line[1], line[2]]))
    return Split.of(rows)
