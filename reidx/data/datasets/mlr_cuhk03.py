"""MLR-CUHK03: CUHK03 with one camera of each pair down-sampled, or a prepared copy in Market-1501's grammar."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from reidx.data.datasets.base import Counts, Dataset, Facts, Split
from reidx.data.datasets.cuhk03 import REQUEST, parse_image, read_split
from reidx.data.datasets.folder import read_folder
from reidx.data.datasets.inspection import file_or_line, inspecting
from reidx.data.datasets.market import MarketGrammar
from reidx.data.decode import decode
from reidx.errors import DataError

FACTORS = (2, 3, 4)
LOW, MADE = 1, "MLR-CUHK03"
"""The view with low resolution, and the folder of its down-sampled images."""


class MLRCUHK03(Dataset):
    """MLR-CUHK03, low-resolution queries against high-resolution galleries.

    MLR-CUHK03 (Jiao et al., AAAI 2018): CUHK03 (Li et al., CVPR 2014), with the images of one camera of each pair
    down-sampled by a factor of 2, 3 or 4. ``images`` is the source:

    ``labeled`` and ``detected`` (boxes drawn by hand or found by a detector) start from CUHK03: ``images_labeled`` or
    ``images_detected`` with names ``C_PPP_V_NN.png`` (camera pair, person, view, image), and the official test sets in
    ``splits_classic_{labeled,detected}.json``, as torchreid extracts them from ``cuhk-03.mat``. View 1 is down-sampled; the
    factor of an image follows from ``seed`` and its name, and the result is kept in ``MLR-CUHK03`` of the same folder. Of the
    1,467 people, ``split`` (0 to 19) chooses 100 for the test: the queries are the low-resolution images, the gallery the
    others.

    ``repacked`` is a prepared copy: ``bounding_box_train``, ``query`` and ``bounding_box_test`` with names
    ``PPPP_cC….png``. The copy has one split, and its factors are unknown.

    The column ``resolution`` is the factor: 1 for an original image, −1 for an unknown one. The published test draws one
    gallery image of each person: protocol ``SingleGalleryShot``. ``root`` is the folder that holds these or one above:
    ``cuhk03``, ``CUHK03``, ``MLR-CUHK03``.

    Raises :class:`DataError` for a missing folder or list, a name or a list that does not parse, a folder that cannot be
    written, and an unreadable image.
    """

    name = "MLR-CUHK03"
    columns: ClassVar[tuple[str, ...]] = ("resolution",)
    places: ClassVar[tuple[str, ...]] = (".", "cuhk03", "CUHK03", "MLR-CUHK03")
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **{boxes: (f"images_{boxes}", f"splits_classic_{boxes}.json") for boxes in ("labeled", "detected")},
        "repacked": tuple(MarketGrammar.folders.values()),
    }
    remarks: list[str]
    facts = Facts(
        REQUEST,
        "cuhk03/\n"
        "  images_labeled/  1_001_1_01.png: camera pair, person, view, image\n"
        "  splits_classic_labeled.json\n"
        "  (or images_detected/, splits_classic_detected.json)\n"
        "or re-packed\n"
        "  bounding_box_train/  0001_c1….png: person, camera (1: low resolution)\n"
        "  query/\n"
        "  bounding_box_test/",
        {
            variant: {"train": Counts(None, 1_367), "query": Counts(None, 100), "gallery": Counts(None, 100)}
            for variant in ("made", "repacked")
        },
    )

    def __init__(
        self,
        root: str,
        images: Literal["labeled", "detected", "repacked"] = "labeled",
        split: int = 0,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if images == "repacked":
            if split or seed:
                raise ValueError(f"split is {split} and seed {seed}, but a repacked copy has one split: leave them out.")
            self.variant = "repacked"
            self._take(_Repacked(root))
            return
        folder, table = self.layouts[images]
        _, base = self.locate(root, {images: self.layouts[images]})[0]
        self.variant = "made"
        self.root, self.version, self.dropped, self.remarks = str(base), f"{images} boxes, split {split}, seed {seed}", {}, []
        tested = {image.person for image in read_split(base / table, split)["gallery"]}
        train: list[tuple[str, int, int, int]] = []
        query, gallery = train[:], train[:]
        for name in read_folder(base / folder, self.dropped, self.remarks).names:
            with file_or_line(base / folder / name):
                _, person, view = parse_image(name, str(base / folder / name))
                factor = _factor(name, seed) if view == LOW else 1
                made = base / MADE / images / f"{Path(name).stem}_x{factor}.png"
                path = base / folder / name if view != LOW or inspecting() else made  # an inspection reads the originals
                split_of_image = train if person not in tested else query if view == LOW else gallery
                split_of_image.append((str(path), person, view - 1, factor))
        for rows, what in ((train, "training"), (query, "low-resolution test"), (gallery, "high-resolution test")):
            if not rows:
                raise DataError(f"{self.name}: {base / folder} has no {what} image of split {split}.")
        if not inspecting():
            _make(base / folder, [Path(row[0]) for row in (*train, *query) if row[3] != 1], progress)
        self.train, self.query, self.gallery = (Split.of(rows, *self.columns) for rows in (train, query, gallery))

    @classmethod
    def arguments_of(cls, layout: str) -> dict[str, Any]:
        return {"images": layout}

    def camera_number(self, camera: int) -> int:
        return camera + 1

    def _take(self, packed: MarketGrammar) -> None:
        """Take over the splits of a prepared copy."""
        self.root, self.version, self.dropped, self.remarks = packed.root, "repacked", packed.dropped, packed.remarks
        self.train, self.query, self.gallery = (
            replace(split, columns={"resolution": np.full(len(split), -1, np.int64)})
            for split in (packed.train, packed.query, packed.gallery)
        )


class _Repacked(MarketGrammar):
    """The prepared copy in Market-1501's grammar."""

    name = MLRCUHK03.name
    places = MLRCUHK03.places
    facts = MLRCUHK03.facts
    camera_numbers = (1, 2)
    background = False
    example = "0001_c1….png"


def _factor(name: str, seed: int) -> int:
    """The down-sampling factor of an image, independent of the other images."""
    return FACTORS[int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") % len(FACTORS)]


def _make(folder: Path, paths: list[Path], progress: Callable[[int, int], None] | None) -> None:
    """Write the missing ones of ``paths``, each made from the image in ``folder`` whose name it begins with.

    An image appears only when complete, so that several processes may write at once, and an interrupted one continues.
    """
    originals = {original.stem: original for original in folder.iterdir()}
    missing = [path for path in paths if not path.is_file()]
    for done, path in enumerate(missing, start=1):
        stem, _, factor = path.stem.rpartition("_x")
        image = decode(str(originals[stem]))
        size = max(1, image.width // int(factor)), max(1, image.height // int(factor))
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            image.resize(size, Image.Resampling.BICUBIC).save(part, format="PNG")
            os.replace(part, path)
        except OSError as error:
            raise DataError(f"{path}: the down-sampled image cannot be written: {error}.") from error
        finally:
            part.unlink(missing_ok=True)
        if progress is not None:
            progress(done, len(missing))
