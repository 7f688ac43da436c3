"""Tests on partial and occluded bodies: Partial-REID, Partial-iLIDS and Occluded-REID, without training images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from reidx.data.datasets.base import Counts, Dataset, Facts, Split, parse_number
from reidx.data.datasets.folder import files_in, folders_in, named_images
from reidx.data.decode import is_image
from reidx.errors import DataError

NAME = re.compile(r"(\d+)[_.]", re.ASCII)
"""Start of a file name: the person's number."""
PARTIAL, OCCLUDED = ("partial_body_images", "whole_body_images"), ("occluded_body_images", "whole_body_images")
SORTED, ORIGINAL = ("query", "gallery"), ("Probe", "Gallery")


class PartialBodies(Dataset):
    """A test-only set: queries of partial or occluded bodies, a gallery of whole ones, names that begin with the person.

    The images of a folder are directly in it, or in a folder for each person. Cameras are not known.

    Raises :class:`DataError` for a missing or empty folder, and for a name without the number of a person.
    """

    # its layouts are pairs of a folder of queries and one of the gallery
    remarks: list[str]

    def __init__(self, root: str) -> None:
        layout, base = self.locate(root)[0]
        self.root, self.dropped, self.remarks = str(base), {}, []
        self.train = Split.of([])
        self.query, self.gallery = (self._read(base / folder) for folder in self.layouts[layout])

    def _read(self, folder: Path) -> Split:
        flat = any(map(is_image, files_in(folder)))
        rows = []
        for place in [folder] if flat else folders_in(folder):
            for path, match in named_images(place, NAME, "001_002.jpg", self.dropped, self.remarks):
                rows.append((path, parse_number(match[1], "the identity", path), -1))
        if not rows:
            raise DataError(f"{self.name}: {folder} has no image.")
        return Split.of(rows)


class PartialREID(PartialBodies):
    """Partial-REID, a test with parts of bodies as queries.

    Partial-REID (Zheng et al., ICCV 2015): 300 queries that show parts of 60 people, against 300 images of their whole
    bodies. Folders ``partial_body_images`` and ``whole_body_images``, names ``PPP_NNN.jpg``; ``occluded_body_images``, from
    which the queries were cut, is not read. There are no training images: train on another domain. Cameras are not known:
    protocol ``NoCameraFilter``, or ``SingleGalleryShot`` with ``camera_filter: false`` for one gallery image of each person.

    ``root`` is the data set's own folder or one above: ``Partial_REID``, ``PartialREID``, ``Partial-REID_Dataset``.
    """

    name = "Partial-REID"
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"": PARTIAL}
    places = (".", "Partial_REID", "PartialREID", "Partial-REID_Dataset")
    facts = Facts(
        request="https://github.com/JDAI-CV/fast-reid/tree/master/projects/PartialReID",
        layout="Partial_REID/\n  partial_body_images/  001_002.jpg: person, image\n  whole_body_images/",
        counts={"": {"train": Counts(0, 0), "query": Counts(300, 60), "gallery": Counts(300, 60)}},
    )


class PartialILIDS(PartialBodies):
    """Partial-iLIDS, a test with parts of bodies as queries.

    Partial-iLIDS (He et al., CVPR 2018), cut from i-LIDS: 119 queries that show parts of 119 people, against one image of each
    person's whole body. Folders ``query`` and ``gallery`` (fast-reid), ``Probe`` and ``Gallery``, or ``partial_body_images``
    and ``whole_body_images``; names begin with the person: ``PPP.jpg``, ``PPP_N.jpg``. There are no training images: train on
    another domain. Cameras are not known: protocol ``NoCameraFilter``.

    ``root`` is the data set's own folder or one above: ``PartialiLIDS``, ``Partial_iLIDS``.
    """

    name = "Partial-iLIDS"
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"fast-reid": SORTED, "original": ORIGINAL, "torchreid": PARTIAL}
    places = (".", "PartialiLIDS", "Partial_iLIDS")
    facts = Facts(
        request=PartialREID.facts.request,
        layout="PartialiLIDS/\n  query/    001_1.jpg: person, image\n  gallery/",
        counts={"": {"train": Counts(0, 0), "query": Counts(119, 119), "gallery": Counts(119, 119)}},
    )


class OccludedREID(PartialBodies):
    """Occluded-REID, a test with occluded bodies as queries.

    Occluded-REID (Zhuo et al., ICME 2018): 1,000 occluded images of 200 people, against 1,000 of their whole bodies. Folders
    ``occluded_body_images`` and ``whole_body_images`` with a folder for each person and names ``PPP_NN.tif``, or ``query`` and
    ``gallery`` (fast-reid). There are no training images: train on another domain. Cameras are not known: protocol
    ``NoCameraFilter``.

    ``root`` is the data set's own folder or one above: ``Occluded_REID``, ``OccludedREID``.
    """

    name = "Occluded-REID"
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {"original": OCCLUDED, "fast-reid": SORTED}
    places = (".", "Occluded_REID", "OccludedREID")
    facts = Facts(
        request="https://github.com/tinajia2012/ICME2018_Occluded-Person-Reidentification_datasets",
        layout="Occluded_REID/\n  occluded_body_images/  001/001_02.tif: person, image\n  whole_body_images/",
        counts={"": {"train": Counts(0, 0), "query": Counts(1000, 200), "gallery": Counts(1000, 200)}},
    )
