"""A test split drawn from labelled images: some of the people, and one query of each under each camera."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def draw_order(seed: int, items: Iterable[object]) -> list[int]:
    """Positions of ``items`` in an order drawn from ``seed``.

    The order is that of digests, so it is the same under every library version.
    """
    digests = [hashlib.sha256(f"{seed}/{item}".encode(errors="surrogateescape")).digest() for item in items]
    return sorted(range(len(digests)), key=digests.__getitem__)


def draw_test(ids: np.ndarray, cameras: np.ndarray, names: Sequence[str], share: float, seed: int) -> np.ndarray:
    """The split (N,) of each image, as text: ``train``, ``query`` or ``gallery``.

    The ``share`` of the identities, drawn from ``seed`` and rounded to one at least, is tested. Of each of them, one image
    under each camera is a query, as long as each query of the person keeps an image in the gallery: under another camera, if
    the cameras (N,) are known (not -1). ``names`` distinguish the images, so that their order does not matter.
    """
    people = np.unique(ids)
    tested = people[draw_order(seed, people.tolist())[: max(1, round(share * len(people)))]]
    split = np.where(np.isin(ids, tested), "gallery", "train").astype("<U7")
    order = np.array(draw_order(seed, names), np.int64)
    for person in tested:
        own = order[ids[order] == person]
        first = own[np.sort(np.unique(cameras[own], return_index=True)[1])]  # of each camera, the first in that order
        for image in first:
            split[image] = "query"
            if not _all_matched(split[own], cameras[own]):
                split[image] = "gallery"
    return split


def _all_matched(split: np.ndarray, cameras: np.ndarray) -> bool:
    """Return True if each query of a person has an image of another camera, or of an unknown one, in the gallery."""
    queries, gallery = cameras[split == "query"], cameras[split == "gallery"]
    return all(((gallery != camera) | (gallery < 0)).any() for camera in queries.tolist())
