"""A part of the training images of a data set, for experiments on the amount of data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reidx.data.datasets.camera_split import find_cameras, listed
from reidx.data.datasets.derived import DatasetSpec, DerivedDataset
from reidx.data.datasets.drawn_test import draw_order
from reidx.errors import DataError


class Subset(DerivedDataset):
    """A part of the training images of a data set, with its whole test.

    ``of`` is the spec of that data set. ``cameras`` keeps the training images of these cameras, numbered as in the data set's
    file names or lists; ``identities`` keeps those of this number of people, drawn from ``seed``. Of these, ``images``
    keeps this number, or ``fraction`` this share, drawn from ``seed``. A larger subset of the same seed contains the smaller
    one. Query and gallery are those of the data set, so that results on its subsets can be compared.

    Raises :class:`DataError` for an unknown camera, more people or images than there are, or people of a data set without
    identities.
    """

    def __init__(
        self,
        of: DatasetSpec,
        identities: int | None = None,
        cameras: list[int] | None = None,
        fraction: float | None = None,
        images: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if all(choice is None for choice in (identities, cameras, fraction, images)):
            raise ValueError("give identities, cameras, fraction or images; without them the subset is the whole.")
        if fraction is not None and images is not None:
            raise ValueError("fraction and images both set the number of images; leave out one.")
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it is a share above 0 and up to 1.")
        if any(count is not None and count < 1 for count in (identities, images)) or cameras == []:
            raise ValueError("identities, images and cameras must each be at least one.")
        super().__init__(of, progress)
        whole = self.whole
        self.query, self.gallery = whole.query, whole.gallery
        kept, parts = np.ones(len(whole.train), dtype=bool), []
        if cameras is not None:
            kept &= np.isin(whole.train.cameras, find_cameras(whole, cameras))
            parts.append(f"cameras {listed(cameras)}")
        if identities is not None:
            kept &= self._people(kept, identities, seed)
            parts.append(f"{identities:,} people")
        if images is not None or fraction is not None:
            there = np.flatnonzero(kept)
            count = images if images is not None else max(1, round((fraction or 0) * len(there)))
            if count > len(there):
                raise DataError(f"{whole.name} has {len(there):,} such training images, not {count:,}. Set a smaller number.")
            kept[there[draw_order(seed, there.tolist())[count:]]] = False
            parts.append(f"{count:,} images")
        if not kept.any():
            raise DataError(f"{whole.name}: no training image is of {', '.join(parts)}.")
        self.train = whole.train.select(kept)
        drawn = f" of seed {seed}" if cameras is None or len(parts) > 1 else ""
        self.name = f"{whole.name}, {', '.join(parts)}{drawn}"
        self.dropped = {**whole.dropped, "training images outside the subset": int((~kept).sum())}

    def _people(self, kept: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Mask (N,) of the training images of ``count`` people, drawn from those with an image in ``kept``."""
        ids = self.whole.train.ids
        if ids is None:
            raise DataError(f"{self.whole.name} has no identities for its training images. Set fraction or images.")
        people = np.unique(ids[kept])
        if count > len(people):
            raise DataError(f"{self.whole.name} has {len(people):,} such people, not {count:,}. Set a smaller number.")
        return np.isin(ids, people[draw_order(seed, people.tolist())[:count]])
