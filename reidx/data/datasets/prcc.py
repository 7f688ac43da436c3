"""PRCC, people in two outfits: a folder for each person, and for each camera in the test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from reidx.data.datasets.base import Dataset, Facts, Split, parse_number
from reidx.data.datasets.clothes import with_clothes
from reidx.data.datasets.folder import folders_in, read_folder
from reidx.data.datasets.inspection import file_or_line
from reidx.errors import DataError

CAMERAS = "ABC"


class PRCC(Dataset):
    """PRCC, people in one or two outfits, seen by three cameras.

    PRCC (Yang et al., TPAMI 2019). Cameras A and B saw a person in the same clothes, camera C in others. Folders
    ``rgb/train/PPP`` with names that begin with the camera (``A_cropped_rgb….jpg``), and ``rgb/test/{A,B,C}/PPP``;
    ``rgb/val`` shows other images of the training people and is not read.

    The gallery is camera A; the queries are cameras B and C together, of which the protocol chooses: ``SameClothes`` scores
    those of B, ``ClothChanging`` those of C, each against all of A or, with ``trials``, against one image of each person.
    The column ``clothes`` numbers the outfits of all people.

    ``root`` is the data set's own folder or one above: ``prcc``, ``PRCC``.

    Raises :class:`DataError` for a missing or empty folder, and for a name of a folder or image that does not parse.
    """

    name = "PRCC"
    columns: ClassVar[tuple[str, ...]] = ("clothes",)
    places: ClassVar[tuple[str, ...]] = (".", "prcc", "PRCC")
    remarks: list[str]
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("rgb/train", *(f"rgb/test/{camera}" for camera in CAMERAS))}
    facts = Facts(
        "https://www.isee-ai.cn/%7Eyangqize/clothing.html",
        "prcc/\n"
        "  rgb/train/001/   A_cropped_rgb001.jpg: a folder for each person,\n"
        "                   names begin with the camera\n"
        "  rgb/test/A/002/  cropped_rgb001.jpg: a folder for each camera and person\n"
        "  rgb/test/B/      the same clothes as A\n"
        "  rgb/test/C/      other clothes",
    )

    def __init__(self, root: str) -> None:
        _, base = self.locate(root)[0]
        self.root, self.dropped, self.remarks = str(base), {}, []
        train = self._read(base / "rgb" / "train")
        gallery, *queries = (self._read(base / "rgb" / "test" / camera, camera) for camera in CAMERAS)
        splits = [Split.of(rows) for rows in (train, [row for rows in queries for row in rows], gallery)]
        # outfit 1 in camera C, outfit 0 in A and B
        self.train, self.query, self.gallery = with_clothes(splits, [split.cameras == 2 for split in splits])

    def camera_number(self, camera: int) -> int:
        return camera + 1

    def _read(self, folder: Path, camera: str = "") -> list[tuple[str, int, int]]:
        """Path, person and camera of each image below ``folder``; without ``camera`` the names begin with it."""
        rows = []
        for person in folders_in(folder):
            with file_or_line(person):
                if not re.fullmatch(r"\d+", person.name, re.ASCII):
                    raise DataError(f"{person}: the folder of a person is named by its number, such as 001.")
                pid = parse_number(person.name, "the identity", str(person))
                for name in read_folder(person, self.dropped, self.remarks).names:
                    with file_or_line(person / name):
                        letter = camera or name[0]
                        if letter not in CAMERAS:
                            raise DataError(
                                f"{person / name}: the name of a training image begins with its camera, A, B or C, such as "
                                "A_cropped_rgb001.jpg."
                            )
                        rows.append((str(person / name), pid, CAMERAS.index(letter)))
        if not rows:
            raise DataError(f"{self.name}: {folder} has no image of a person.")
        return rows
