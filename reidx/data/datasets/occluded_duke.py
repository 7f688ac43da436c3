"""Occluded-Duke: lists of DukeMTMC-reID's images, or the folders that its authors' script makes from them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from reidx.data.datasets.base import Counts, Facts, Split, parse_number
from reidx.data.datasets.folder import files_in
from reidx.data.datasets.inspection import file_or_line
from reidx.data.datasets.lists import check_listed, read_list
from reidx.data.datasets.locate import locate
from reidx.data.datasets.market import DukeMTMC
from reidx.data.decode import is_image
from reidx.errors import DataError

LISTS = {"train": "train.list", "query": "query.list", "gallery": "gallery.list"}
LINE = re.compile(r"((\d+)_c([1-8])_f\d+\.jpg)", re.ASCII)
"""A line of a list: a file name of DukeMTMC-reID, with identity and camera."""
EXAMPLE = "0001_c2_f0046182.jpg"
LISTED, SORTED = "lists and their images", "sorted folders"
OF_DUKE = (16_522, 2_228)
"""Training and query images of DukeMTMC-reID, which has the same folders."""


class OccludedDuke(DukeMTMC):
    """Occluded-Duke, occluded queries; from the withdrawn DukeMTMC-reID.

    Occluded-Duke (Miao et al., ICCV 2019) splits the images of DukeMTMC-reID again: 15,618 training, 2,210 query and 17,661
    gallery images; all queries are occluded. DukeMTMC-reID was withdrawn by its authors, because people were filmed and
    published without their consent. The set is supported for comparison with earlier papers by those who have a copy.

    A folder ``Occluded_Duke`` holds the lists ``{train,query,gallery}.list``. The images are in ``bounding_box_train``,
    ``query`` and ``bounding_box_test``: sorted by the authors' script, in ``Occluded_Duke``, or still as in DukeMTMC-reID,
    whose folder is in ``Occluded_Duke``, next to it or below ``root``. Sorted images may come without lists. ``root`` is
    ``Occluded_Duke`` or a folder above: that of DukeMTMC-reID, ``dukemtmcreid``, ``dukemtmc-reid``.

    Raises :class:`DataError` for a missing folder, list or image, and for a line that does not parse, by its number.
    """

    name = "Occluded-Duke"
    places: ClassVar[tuple[str, ...]] = (
        *("Occluded_Duke", "dukemtmcreid/Occluded_Duke", "dukemtmc-reid/Occluded_Duke", "DukeMTMC-reID/Occluded_Duke"),
        *("Occluded-DukeMTMC-Dataset/Occluded_Duke", "occluded_duke", "."),
    )
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        LISTED: tuple(LISTS.values()),
        SORTED: tuple(DukeMTMC.folders.values()),
    }
    facts = Facts(
        request="",
        layout=(
            "Occluded_Duke/\n"
            "  train.list, query.list, gallery.list\n"
            "DukeMTMC-reID/\n"
            "  bounding_box_train/  0001_c2_f0046182.jpg: person, camera, frame\n"
            "  query/\n"
            "  bounding_box_test/\n"
            "or sorted\n"
            "Occluded_Duke/\n"
            "  bounding_box_train/, query/, bounding_box_test/"
        ),
        counts={"": {"train": Counts(15618, 702), "query": Counts(2210, 519), "gallery": Counts(17661, 1110)}},
        notice=(
            "The images of Occluded-Duke are those of DukeMTMC-reID, which its authors withdrew: people were filmed and "
            "published without their consent. Use it only for comparison with earlier papers."
        ),
    )

    def __init__(self, root: str) -> None:
        self.layout, base = self.locate(root)[0]
        if self.layout == SORTED:
            super().__init__(str(base))
            if (len(self.train), len(self.query)) == OF_DUKE:
                raise DataError(f"{base} holds DukeMTMC-reID as published, not sorted for Occluded-Duke. Add the lists.")
            return
        self.root, self.dropped, self.remarks = str(base), {}, []
        above = dict.fromkeys((base, base.parent, Path(root).expanduser()))
        name = "DukeMTMC-reID, whose images the lists of Occluded-Duke name,"
        places = [str((folder / place).absolute()) for folder in above for place in DukeMTMC.places]
        _, images = locate(name, root, places, {"": tuple(self.folders.values())})[0]
        self.train, self.query, self.gallery = (self._listed(images, base / LISTS[split], split) for split in LISTS)
        there = sum(is_image(name) for folder in self.folders.values() for name in files_in(images / folder))
        self.dropped["images of DukeMTMC-reID in no list"] = there - sum(map(len, (self.train, self.query, self.gallery)))

    def card(self) -> dict[str, Any]:
        """The usual card, with the layout."""
        return {**super().card(), "layout": self.layout}

    def _listed(self, images: Path, table: Path, split: str) -> Split:
        """The images of a list. Some queries are gallery images of DukeMTMC-reID; all others are in their split's folder."""
        own, other = (images / self.folders[where] for where in (split, "gallery"))
        in_gallery = files_in(other) - files_in(own) if split == "query" else frozenset()
        places: dict[str, str] = {}
        rows = []
        for where, line in read_list(table, LINE, EXAMPLE):
            path = f"{other if line[1] in in_gallery else own}{os.sep}{line[1]}"
            with file_or_line(path):
                check_listed(path, where, places)
                rows.append((path, parse_number(line[2], "the identity", where), int(line[3]) - 1))
        return Split.of(rows)
