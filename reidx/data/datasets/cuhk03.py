"""CUHK03 in its two partitions, as torchreid extracts it, or re-packed in Market-1501's grammar."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from reidx.data.datasets.base import PASSED_OVER, Counts, Dataset, Facts, Split
from reidx.data.datasets.folder import read_folder
from reidx.data.datasets.market import MarketGrammar
from reidx.errors import DataError

NAME = re.compile(r"([1-5])_(\d{3})_([12])_\d{2}\.\w+", re.ASCII)
"""An extracted image: camera pair, person of that pair, view, number of the image."""
PARTS = ("train", "query", "gallery")
BOXES = ("detected", "labeled")
CLASSIC = {"train": Counts(None, 1367), "query": Counts(None, 100), "gallery": Counts(None, 100)}
REPACKED = "re-packed"
RAW = "cuhk-03.mat"
REQUEST = "http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html"


class CUHK03(Dataset):
    """CUHK03, five pairs of cameras, detected or hand-drawn boxes.

    CUHK03 (Li et al., CVPR 2014): 1,467 people, each seen by the two views of one of five pairs of cameras. ``images``
    selects the boxes: ``detected`` or ``labeled``.

    ``partition: new`` (Zhong et al., CVPR 2017) trains on 767 people and tests on 700 under the protocol ``Market1501``.
    ``partition: classic`` has 20 splits of 1,367 and 100 people; ``split`` (0 to 19) chooses one, in which all test images
    are queries and gallery images under the protocol ``SingleGalleryShot``; a result is the mean over the splits.

    As torchreid and fast-reid extract it, a folder holds ``images_detected`` and ``images_labeled``, with names
    ``C_PPP_V_NN.png`` (camera pair, person, view, image), and ``splits_{new,classic}_{detected,labeled}.json``. Only the file
    names in these splits are used, so the folder may be moved. A copy re-packed in Market-1501's grammar has the new
    partition alone: ``bounding_box_train``, ``query`` and ``bounding_box_test``, also in a folder ``detected`` or ``labeled``.

    Cameras are the two views. ``root`` is the folder that holds these, or one above: ``cuhk03``, ``CUHK03``, ``cuhk03-np``,
    ``CUHK03-NP``.

    Raises :class:`DataError` for a missing folder, list or image, an archive that is not extracted, and a name or a list that
    does not parse.
    """

    name = "CUHK03"
    places: ClassVar[tuple[str, ...]] = tuple(
        f"{place}{boxes}"
        for place in (".", "cuhk03", "CUHK03", "cuhk03-np", "CUHK03-NP")
        for boxes in ("", "/detected", "/labeled")
    )
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **{
            f"{partition}, {boxes}": (f"images_{boxes}", f"splits_{partition}_{boxes}.json")
            for partition in ("new", "classic")
            for boxes in BOXES
        },
        REPACKED: tuple(MarketGrammar.folders.values()),
    }
    facts = Facts(
        request=REQUEST,
        layout=(
            "cuhk03/\n"
            "  images_detected/  1_001_1_01.png: camera pair, person, view, image\n"
            "  images_labeled/\n"
            "  splits_new_detected.json, splits_new_labeled.json\n"
            "  splits_classic_detected.json, splits_classic_labeled.json\n"
            "or re-packed\n"
            "  bounding_box_train/  0001_c1….png: person, camera; detected or labeled boxes\n"
            "  query/\n"
            "  bounding_box_test/"
        ),
        counts={
            "new, detected": {"train": Counts(7365, 767), "query": Counts(1400, 700), "gallery": Counts(5332, 700)},
            "new, labeled": {"train": Counts(7368, 767), "query": Counts(1400, 700), "gallery": Counts(5328, 700)},
            **{f"classic, {boxes}": CLASSIC for boxes in ("detected", "labeled")},
        },
    )
    remarks: list[str]

    def __init__(
        self,
        root: str,
        images: Literal["detected", "labeled"] = "detected",
        partition: Literal["new", "classic"] = "new",
        split: int = 0,
    ) -> None:
        if partition == "new" and split:
            raise ValueError(f"split is {split}, but the new partition has one split: leave it out, or set partition: classic.")
        self.variant = f"{partition}, {images}"
        layout, base = self._find(root, images, partition)
        self.root, self.dropped, self.remarks = str(base), {}, []
        self.layout = "extracted images and splits" if layout != REPACKED else "re-packed folders, boxes as stated"
        self.version = f"{images} boxes, {partition} partition" + (f", split {split}" if partition == "classic" else "")
        if layout != REPACKED:
            folder, table = self.layouts[layout]
            self._read(base / folder, base / table, split)
            return
        packed = _Repacked(self.root)
        self.train, self.query, self.gallery = packed.train, packed.query, packed.gallery
        self.dropped, self.remarks = packed.dropped, packed.remarks

    @classmethod
    def arguments_of(cls, layout: str) -> dict[str, Any]:
        partition, _, images = layout.partition(", ")
        return {} if layout == REPACKED else {"partition": partition, "images": images}

    @classmethod
    def repeats(cls, partition: str = "new", **arguments: Any) -> tuple[str, Sequence[int]] | None:
        """The twenty test sets of the classic partition."""
        return ("split", range(20)) if partition == "classic" else None

    def camera_number(self, camera: int) -> int:
        return camera + 1

    def card(self) -> dict[str, Any]:
        """The usual card, with the layout."""
        return {**super().card(), "layout": self.layout}

    def _find(self, root: str, images: str, partition: str) -> tuple[str, Path]:
        """The (layout, folder) of these boxes; the :class:`DataError` for a mere archive says how to extract it."""
        wanted = (self.variant, REPACKED) if partition == "new" else (self.variant,)
        try:
            found = self.locate(root, {layout: self.layouts[layout] for layout in wanted})
        except DataError:
            if archive := next(_archives(Path(root).expanduser()), None):
                raise DataError(
                    f"{archive} is not extracted: reidx reads images, not this HDF5 file. In Python, with torchreid and h5py, "
                    "torchreid.data.ImageDataManager(root=FOLDER, sources='cuhk03') extracts it, where FOLDER/cuhk03 holds "
                    f"cuhk03_release/{RAW} and both cuhk03_new_protocol_config_*.mat; then set root to that folder."
                ) from None
            raise
        others = {boxes for boxes in BOXES if boxes != images}
        fitting = [(layout, base) for layout, base in found if layout != REPACKED or base.name not in others]
        if not fitting:
            base = found[0][1]
            raise DataError(f"{base} has {base.name} boxes by its name, but images is {images}. Set images: {base.name}.")
        return fitting[0]

    def _read(self, folder: Path, table: Path, split: int) -> None:
        """Read the splits of a list, whose images are in ``folder``."""
        there = set(read_folder(folder, self.dropped, self.remarks).names)
        parts = read_split(table, split)
        for part, images in parts.items():
            if not images:
                raise DataError(f"{table}, split {split} has no {part} image. Extract the splits again.")
            if lost := next((image.name for image in images if image.name not in there), None):
                raise DataError(f"{table}, split {split} lists {lost}, which is not in {folder}. Extract the images again.")
        if unlisted := len(there - {image.name for images in parts.values() for image in images}):
            self.dropped[PASSED_OVER] = self.dropped.get(PASSED_OVER, 0) + unlisted
            self.remarks.append(f"{folder}: passed over {unlisted:,} images that are not in split {split} of {table.name}")
        self.train, self.query, self.gallery = (
            Split.of([(str(folder / image.name), image.person, image.view - 1) for image in parts[part]]) for part in PARTS
        )


class _Repacked(MarketGrammar):
    """The copy in Market-1501's grammar."""

    name = CUHK03.name
    facts = CUHK03.facts
    camera_numbers = (1, 2)
    background = False
    example = "0001_c1….png"


class Image(NamedTuple):
    """An extracted image: its file name, its person's number over all camera pairs, and its view, 1 or 2."""

    name: str
    person: int
    view: int


def parse_image(name: str, where: str) -> Image:
    """The image of a file name; raises :class:`DataError`, prefixed by ``where``, for another name."""
    match = NAME.fullmatch(name)
    if match is None:
        raise DataError(
            f"{where}: the file name does not give camera pair, person, view and image; a name looks like 1_001_1_01.png."
        )
    return Image(name, 1000 * int(match[1]) + int(match[2]), int(match[3]))


def read_split(table: Path, split: int) -> dict[str, list[Image]]:
    """The images of each part of a split, by the file names alone: the paths in ``table`` are those at extraction."""
    try:
        splits: Any = json.loads(table.read_text(encoding="utf-8"))
        if not 0 <= split < len(splits):
            raise DataError(f"{table} has splits 0 to {len(splits) - 1}, but split is {split}.")
        names = {part: [re.split(r"[/\\]", entry[0])[-1] for entry in splits[split][part]] for part in PARTS}
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(f"{table} cannot be read as the splits of CUHK03 ({error}). Extract them again.") from error
    return {part: [parse_image(name, f"{table}, split {split}, {name}") for name in names[part]] for part in PARTS}


def _archives(top: Path) -> Iterator[Path]:
    """The archives at the customary places below ``top``."""
    places = (top / place / inner / RAW for place in CUHK03.places for inner in (".", "cuhk03_release"))
    return (path for path in places if os.path.isfile(path))
