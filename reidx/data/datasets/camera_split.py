"""Two domains made from one data set by splitting its cameras, with different people in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from reidx.data.datasets.base import Dataset, Split
from reidx.data.datasets.derived import DatasetSpec, DerivedDataset
from reidx.data.datasets.drawn_test import draw_order
from reidx.errors import DataError


class CameraSplit(DerivedDataset):
    """Half of a data set's people, seen by some of its cameras.

    ``of`` is the spec of that data set. ``seed`` splits its training identities into halves by number alone, independent of
    the order of the files (with an odd count, the source gets one more); ``side`` selects the half. ``cameras`` selects the
    cameras of this side, numbered as in the data set's file names or lists; training images are those of the half seen by
    these cameras. Two sides of one ``seed`` share no person; the config must choose cameras so that they share none.

    Query and gallery hold all test identities, which no training image shows, seen by the selected cameras. A query without
    the same person under another selected camera is dropped, since a protocol with cameras could not score it; the card
    counts these in ``dropped``. A single camera can therefore be trained on, but has no queries.

    Raises :class:`DataError` for a data set without identities or cameras, an unknown camera, or a side without images.
    """

    def __init__(
        self,
        of: DatasetSpec,
        side: Literal["source", "target"],
        cameras: list[int],
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not cameras or len(set(cameras)) < len(cameras):
            raise ValueError(f"cameras is {cameras}; list each camera of this side once, and one at least.")
        super().__init__(of, progress)
        whole = self.whole
        self.name = f"{whole.name}, cameras {listed(cameras)}, {side} half of seed {seed}"
        own = find_cameras(whole, cameras)
        train, query, gallery = (_require_identities(whole, split) for split in ("train", "query", "gallery"))
        people = split_identities(_ids(train), seed)[side]
        self.train = train.select(np.isin(_ids(train), people) & np.isin(train.cameras, own))
        if not len(self.train):
            raise DataError(
                f"{whole.name}: camera {listed(cameras)} took no training image of the {len(people)} people in the {side} "
                f"half of seed {seed}. Give this side more cameras, or both sides another seed."
            )
        self.gallery = gallery.select(np.isin(gallery.cameras, own))
        query = query.select(np.isin(query.cameras, own))
        matched = _matched(query, self.gallery)
        self.query = query.select(matched)
        self.dropped = {**whole.dropped, "queries without a match": int((~matched).sum())}


def find_cameras(whole: Dataset, cameras: list[int]) -> list[int]:
    """The numbers in a data set's splits of ``cameras``, which are numbered as in its names or lists."""
    known = {whole.camera_number(int(camera)): int(camera) for camera in np.unique(whole.train.cameras) if camera >= 0}
    if not known:
        raise DataError(f"{whole.name} names no cameras for its images, so it cannot be split by cameras.")
    if unknown := sorted(set(cameras) - set(known)):
        raise DataError(f"{whole.name} has no training image of camera {listed(unknown)}; its cameras are {listed(known)}.")
    return [known[camera] for camera in cameras]


def split_identities(ids: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The identities of each side: in an order drawn from ``seed``, the first half is the source's, the rest the target's.

    The order is that of :func:`~reidx.data.datasets.drawn_test.draw_order`.
    """
    people = np.unique(ids).tolist()
    drawn = [people[place] for place in draw_order(seed, people)]
    middle = (len(drawn) + 1) // 2
    return {"source": np.array(drawn[:middle], np.int64), "target": np.array(drawn[middle:], np.int64)}


def _require_identities(whole: Dataset, name: str) -> Split:
    split: Split = getattr(whole, name)
    if split.ids is None:
        raise DataError(f"{whole.name} has no identities for its {name} images, so its people cannot be split.")
    return split


def _ids(split: Split) -> np.ndarray:
    assert split.ids is not None
    return split.ids


def _matched(query: Split, gallery: Split) -> np.ndarray:
    """Mask (Q,) of the queries whose person is in the gallery under another camera."""
    seen: dict[int, set[int]] = {}
    for who, camera in zip(_ids(gallery).tolist(), gallery.cameras.tolist()):
        seen.setdefault(who, set()).add(camera)
    pairs = zip(_ids(query).tolist(), query.cameras.tolist())
    return np.array([bool(seen.get(who, set()) - {camera}) for who, camera in pairs], dtype=bool)


def listed(numbers: list[int] | dict[int, int]) -> str:
    """Numbers as a text."""
    return ", ".join(map(str, numbers))
