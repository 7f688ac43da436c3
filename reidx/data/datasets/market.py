"""Data sets in the file grammar of Market-1501: one folder per split, identity and camera in the file names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from reidx.data.datasets.base import Counts, Dataset, Facts, Split, parse_number
from reidx.data.datasets.folder import read_folder
from reidx.data.datasets.grouped import images_of_queries, with_tracks, with_unknown
from reidx.data.datasets.inspection import file_or_line
from reidx.errors import DataError


class MarketGrammar(Dataset):
    """A folder in Market-1501's grammar: one folder for each split, names ``PPPP_cC….jpg`` (or another image format).

    Id -1 is junk: dropped and counted. With ``background``, id 0 is background: it stays in the gallery, where it matches
    no query, and is dropped elsewhere; otherwise it is an ordinary person. Cameras become 0..n-1 in the order of
    ``camera_numbers`` (None: 1..n). Only the file's own name is parsed, since a folder may be called ``2024_c3``.
    Images in sub-folders and files of other formats are skipped and reported; system files (``Thumbs.db``,
    ``.DS_Store``) are ignored.

    Raises :class:`DataError` for a missing or empty folder, a name that does not parse, a camera out of range.
    """

    folders: ClassVar[Mapping[str, str]] = {
        "train": "bounding_box_train",
        "query": "query",
        "gallery": "bounding_box_test",
    }
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"": tuple(folders.values())}
    camera_numbers: ClassVar[Sequence[int] | None] = None
    """Camera numbers used in the file names; None: 1..n."""
    background: ClassVar[bool] = True
    remarks: list[str]
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"(-1|\d+)_c(\d+)", re.ASCII)
    """Pattern of the start of a file name; its groups are the identity and the camera."""
    example: ClassVar[str] = "0002_c1s1_000451_03.jpg"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "layouts" not in vars(cls):
            cls.layouts = {"": tuple(cls.folders.values())}

    def __init__(self, root: str) -> None:
        _, base = self.locate(root)[0]
        self.root = str(base)
        self.dropped, self.remarks = {"junk": 0, "background": 0}, []
        self.train, self.query, self.gallery = (self._read(base / self.folders[s], s) for s in self.folders)
        if self.dropped["background"]:
            self.remarks.append(f"0000 means background in {self.name}: give a person with that number another number")

    def camera_number(self, camera: int) -> int:
        return camera + 1 if self.camera_numbers is None else self.camera_numbers[camera]

    def _read(self, folder: Path, split: str) -> Split:
        found = read_folder(folder, self.dropped, self.remarks)
        rows: list[tuple[str, int, int]] = []
        for name in found.names:
            path = f"{folder}{os.sep}{name}"
            with file_or_line(path):
                pid, camera = self._parse(name, path)
                if pid == -1:
                    self.dropped["junk"] += 1
                elif pid == 0 and self.background and split != "gallery":
                    self.dropped["background"] += 1
                else:
                    rows.append((path, pid, camera))
        with file_or_line(folder):
            if not rows:
                what = "only junk and background" if found.names else "no .jpg image"
                others = "".join(f" It has {count:,} {kind}, which are not read." for kind, count in found.passed_over.items())
                raise DataError(f"{self.name}: {folder} has {what}.{others}")
        return Split.of(rows)

    def _parse(self, name: str, path: str) -> tuple[int, int]:
        """The identity (-1: junk) and the camera, counted from 0, of a file name."""
        match = self.pattern.match(name)
        if match is None:
            raise DataError(
                f"{path}: the name does not give identity and camera; {self.name} expects names such as {self.example}."
            )
        pid = -1 if match[1] == "-1" else parse_number(match[1], "the identity", path)
        return pid, self._camera(parse_number(match[2], "the camera", path), path)

    def _camera(self, number: int, path: str) -> int:
        """The camera, counted from 0, for a number in a file name."""
        known = self.camera_numbers
        if number < 1 or (known is not None and number not in known):
            numbers = "1 to n" if known is None else ", ".join(map(str, known))
            raise DataError(f"{path}: camera {number} is out of range; {self.name} has cameras {numbers}.")
        return number - 1 if known is None else known.index(number)


class Market1501(MarketGrammar):
    """Market-1501, the usual benchmark: 1,501 people, 6 cameras.

    Market-1501 (Zheng et al., ICCV 2015): 12,936 training, 3,368 query and 15,913 gallery images without junk.
    ``distractors: true`` adds the images of ``images`` or ``distractors_500k`` in the same folder to the gallery, the 500k
    distractors that are published separately. All of them are background; the identities in their names are ignored.

    ``queries: multi`` takes all images of ``gt_bbox`` with the identity and camera of a query in place of the query, with the
    column ``group``; protocol ``Grouped`` (``query: group``) compares the mean of their features.

    ``root`` is the data set's own folder, or the one above it in any customary layout: ``Market-1501-v15.09.15``,
    ``market1501``, ``market1501/Market-1501-v15.09.15``.
    """

    name = "Market-1501"
    version = "v15.09.15"
    facts = Facts(
        "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
        "Market-1501-v15.09.15/\n"
        "  bounding_box_train/  0002_c1s1_000451_03.jpg: person, camera, frame, box\n"
        "  query/\n"
        "  bounding_box_test/   -1_… is junk, 0000_… is background\n"
        "  gt_bbox/             further images of the queries, for queries: multi",
        {"": {"train": Counts(12_936, 751), "query": Counts(3_368, 750), "gallery": Counts(15_913, 751)}},
    )
    places = (".", "Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15")
    camera_numbers = range(1, 7)
    distractor_folders: ClassVar[tuple[str, ...]] = ("images", "distractors_500k/images", "distractors_500k")

    def __init__(self, root: str, distractors: bool = False, queries: Literal["single", "multi"] = "single") -> None:
        super().__init__(root)
        self.added = 0
        if distractors:
            self._add_distractors()
        if queries == "multi":
            self._take_images_of_queries()

    @classmethod
    def contract(cls, queries: str = "single", **_: Any) -> dict[str, Any]:
        """The column of the groups of images."""
        return {"columns": ("group",)} if queries == "multi" else {}

    def card(self) -> dict[str, Any]:
        """The usual card, with the number of added distractors, if any."""
        return {**super().card(), **({"added_distractors": self.added} if self.added else {})}

    def _add_distractors(self) -> None:
        """Add the published distractors to the gallery, as background."""
        folders = [Path(self.root) / name for name in self.distractor_folders]
        folder = next(filter(Path.is_dir, folders), None)
        names = [] if folder is None else read_folder(folder, self.dropped, self.remarks).names
        if not names:
            raise DataError(
                f"{self.name} at {self.root} has no distractors; looked for images in {', '.join(map(str, folders))}. Unpack "
                "distractors_500k.zip there, or set distractors: false."
            )
        self.added, self.variant, self.version = len(names), "distractors", f"{self.version} with distractors"
        matches = [self.pattern.match(name) for name in names]
        cameras = [int(match[2]) - 1 if match and int(match[2]) in range(1, 7) else -1 for match in matches]
        rows = [(f"{folder}{os.sep}{name}", 0, camera) for name, camera in zip(names, cameras, strict=True)]
        gallery = self.gallery
        assert gallery.ids is not None  # its names have them
        self.gallery = Split.of([*zip(gallery.paths, gallery.ids, gallery.cameras, strict=True), *rows])

    def _take_images_of_queries(self) -> None:
        """Replace each query by the images of ``gt_bbox`` with its identity and camera."""
        folder = Path(self.root) / "gt_bbox"
        if not folder.is_dir():
            raise DataError(f"{self.name}: there is no folder {folder}, which has the further images of the queries.")
        counted = dict(self.dropped)  # images of gt_bbox are no part of the data set's counts
        boxes, self.dropped = self._read(folder, "query"), counted
        self.query = images_of_queries(self.query, boxes, folder, self.camera_number)
        self.train, self.gallery = with_unknown(self.train, "group"), with_unknown(self.gallery, "group")
        self.variant = "multi-query"
        self.remarks.append(
            f"{len(np.unique(self.query.columns['group'])):,} queries of {len(self.query):,} images of gt_bbox (column group): "
            "rank them by protocol {type: Grouped, query: group}"
        )


class DukeMTMC(MarketGrammar):
    """DukeMTMC-reID, withdrawn by its authors; for old comparisons only.

    The data set was taken down in 2019, as people had been filmed, and their pictures published, without their consent. It
    is supported so that holders of a copy can compare with earlier papers; reidx neither downloads it nor says where to
    get it, and advises against new results on it. Source: Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017.

    16,522 training, 2,228 query and 17,661 gallery images, 8 cameras, names ``PPPP_cC_fFFFFFFF.jpg``; the gallery shows 408
    identities that no query does. ``root`` is its own folder or one above: ``DukeMTMC-reID``, ``dukemtmcreid``,
    ``dukemtmc-reid``, also one of the latter with ``DukeMTMC-reID`` inside.
    """

    name = "DukeMTMC-reID"
    facts = Facts(
        "",
        "DukeMTMC-reID/\n"
        "  bounding_box_train/  0001_c2_f0046182.jpg: person, camera, frame\n"
        "  query/\n"
        "  bounding_box_test/",
        {"": {"train": Counts(16_522, 702), "query": Counts(2_228, 702), "gallery": Counts(17_661, 1_110)}},
        "withdrawn by its authors, because people were filmed and published without their consent; for comparison with earlier "
        "papers only",
    )
    places: ClassVar[tuple[str, ...]] = (
        ".",
        "DukeMTMC-reID",
        "dukemtmcreid",
        "dukemtmcreid/DukeMTMC-reID",
        "dukemtmc-reid",
        "dukemtmc-reid/DukeMTMC-reID",
    )
    camera_numbers = range(1, 9)
    background = False
    # the frame number distinguishes its names from those of Market-1501, which has the same folders
    pattern = re.compile(r"(-1|\d+)_c(\d+)_f\d", re.ASCII)
    example = "0001_c2_f0046182.jpg"


class PersonX(MarketGrammar):
    """PersonX, rendered people in controlled scenes, seen by 6 cameras.

    PersonX (Sun and Zheng, CVPR 2019), rendered people: 9,840 training, 5,136 query and 30,816 gallery images.

    Names call the six cameras 3, 4, 8, 10, 11 and 12. ``root`` is its own folder or one above: ``PersonX``, ``personx``,
    ``personx/PersonX``.
    """

    name = "PersonX"
    facts = Facts(
        "https://github.com/sxzrt/Instructions-of-the-PersonX-dataset",
        "PersonX/\n"
        "  bounding_box_train/  0001_c10….jpg: person, camera (3, 4, 8, 10, 11 or 12)\n"
        "  query/\n"
        "  bounding_box_test/",
        {"": {"train": Counts(9_840, None), "query": Counts(5_136, None), "gallery": Counts(30_816, None)}},
    )
    places = (".", "PersonX", "personx", "personx/PersonX")
    camera_numbers = (3, 4, 8, 10, 11, 12)
    background = False
    example = "0001_c10….jpg"


class VeRi776(MarketGrammar):
    """VeRi-776, vehicles instead of people, seen by 20 cameras.

    VeRi-776 (Liu et al., ICME 2016), vehicles: 37,778 training, 1,678 query and 11,579 gallery images, 20 cameras.

    Folders ``image_train``, ``image_query``, ``image_test``, names ``PPPP_cCCC_FFFFFFFF_V.jpg``. All images count: loaders
    that drop those without a viewpoint label evaluate on a different set. Ranking is per image and ignores images of the
    query's own vehicle and camera. ``tracks`` reads ``test_track.txt`` (lines ``TRACK IMAGE IMAGE …``) into the column
    ``track`` of the gallery, and leaves out images in no track; protocol ``Grouped`` (``gallery: track``, ``nearest: true``)
    ranks the tracks. ``root`` is its own folder or one above: ``VeRi``, ``VeRi-776``, ``veri``, ``veri/VeRi``.
    """

    name = "VeRi-776"
    facts = Facts(
        "https://github.com/JDAI-CV/VeRidataset",
        "VeRi/\n"
        "  image_train/  0001_c001_00016450_0.jpg: vehicle, camera, frame, box\n"
        "  image_query/\n"
        "  image_test/",
        {"": {"train": Counts(37_778, 576), "query": Counts(1_678, 200), "gallery": Counts(11_579, 200)}},
    )
    folders: ClassVar[Mapping[str, str]] = {
        "train": "image_train",
        "query": "image_query",
        "gallery": "image_test",
    }
    places = (".", "VeRi", "VeRi-776", "veri", "veri/VeRi")
    camera_numbers = range(1, 21)
    background = False
    example = "0002_c002_00030600_0.jpg"

    def __init__(self, root: str, tracks: bool = False) -> None:
        super().__init__(root)
        if tracks:
            self.gallery, left = with_tracks(self.gallery, Path(self.root) / "test_track.txt")
            self.dropped["gallery images in no track"] = left
            self.train, self.query = with_unknown(self.train, "track"), with_unknown(self.query, "track")

    @classmethod
    def contract(cls, tracks: bool = False, **_: Any) -> dict[str, Any]:
        """The column of the tracks."""
        return {"columns": ("track",)} if tracks else {}
