"""LTCC, people in changing clothes: person, outfit and camera in the file names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import ClassVar

from reidx.data.datasets.base import Facts
from reidx.data.datasets.clothes import with_clothes
from reidx.data.datasets.market import MarketGrammar

OUTFIT = re.compile(r"\d+_(\d+)_c", re.ASCII)
"""Start of a file name; its group is the number of the outfit among those of the person."""


class LTCC(MarketGrammar):
    """LTCC, people in changing clothes over weeks, seen by 12 cameras.

    LTCC (Qian et al., ACCV 2020). Folders ``train``, ``query`` and ``test``, names ``PPP_K_cCC_FFFFFF.png``: person, outfit
    and camera. The column ``clothes`` numbers the outfits of all people. Protocols: ``Market1501`` is the general setting,
    ``ClothChanging`` and ``SameClothes`` are the settings with other and with the same clothes.

    ``root`` is the data set's own folder or one above: ``LTCC_ReID``, ``LTCC``, ``ltcc``, also one of the latter with
    ``LTCC_ReID`` inside.
    """

    name = "LTCC"
    columns: ClassVar[tuple[str, ...]] = ("clothes",)
    folders: ClassVar[Mapping[str, str]] = {"train": "train", "query": "query", "gallery": "test"}
    places = (".", "LTCC_ReID", "LTCC", "ltcc", "LTCC/LTCC_ReID", "ltcc/LTCC_ReID")
    facts = Facts(
        "https://naiq.github.io/LTCC_Perosn_ReID.html",
        "LTCC_ReID/\n"
        "  train/  094_1_c9_015833.png: person, outfit, camera, frame\n"
        "  query/\n"
        "  test/",
    )
    camera_numbers = range(1, 13)
    background = False
    pattern = re.compile(r"(\d+)_\d+_c(\d+)", re.ASCII)
    example = "094_1_c9_015833.png"

    def __init__(self, root: str) -> None:
        super().__init__(root)
        splits = self.train, self.query, self.gallery
        outfits = [[self._outfit(path) for path in split.paths] for split in splits]
        self.train, self.query, self.gallery = with_clothes(splits, outfits)

    @staticmethod
    def _outfit(path: str) -> int:
        match = OUTFIT.match(os.path.basename(path))
        assert match is not None  # the name has matched the pattern
        return int(match[1])
