"""A domain probe: the accuracy of a linear classifier that separates source and target features."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from reidx.errors import DataError

LIMIT = 2000
"""Maximum number of images per side."""


def domain_probe(
    source: Tensor,
    target: Tensor,
    *,
    seed: int,
    source_people: np.ndarray | None = None,
    target_people: np.ndarray | None = None,
) -> float:
    """Balanced held-out accuracy of a linear classifier of source (N,D) against target (M,D): 0.5 = chance, 1 = perfect.

    A logistic regression on standardised features is trained on half of the images of each side and tested on the other
    half; both sides have equal weight. Equally many images of each are drawn by ``seed``, 2,000 at most; chance alone moves
    the accuracy from 0.5 by about 0.5/√n, with n the number of tested images (or people).

    Images of one person are very similar, and each person is in one domain only: a classifier that memorises people
    recognises them in the other half, and its accuracy is near 1 without any domain difference. With ``source_people`` (N,)
    and ``target_people`` (M,), the person on each image (identities or pseudo labels, −1 is a separate person), the split
    is by people, so that tested people are new (by images if a side has only one person).

    Raises :class:`DataError` for fewer than 4 images per side, different widths, or values that are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sides = [_rows(source, "source"), _rows(target, "target")]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise DataError(f"domain probe: source features have {sides[0].shape[1]} columns, target {sides[1].shape[1]}.")
    random = np.random.default_rng(seed)
    count = min(LIMIT, *map(len, sides))
    learnt, tested = [], []
    for rows, people in zip(sides, (source_people, target_people)):
        drawn = random.permutation(len(rows))[:count]
        first = _first_half(_apart(people, len(rows))[drawn], random)
        learnt.append(rows[drawn][first])
        tested.append(rows[drawn][~first])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    classifier.fit(np.concatenate(learnt), np.repeat([0, 1], [len(rows) for rows in learnt]))
    shares = [np.mean(classifier.predict(rows) == side) for side, rows in enumerate(tested)]
    return float(np.mean(shares))


def _rows(features: Tensor, name: str) -> np.ndarray:
    rows = features.detach().float().cpu().numpy()
    if len(rows) < 4:
        raise DataError(f"domain probe: {len(rows)} {name} images; give 4 of each domain at least, to learn and to test.")
    if not np.isfinite(rows).all():
        raise DataError(f"domain probe: {name} features are not all finite.")
    return rows


def _apart(people: np.ndarray | None, images: int) -> np.ndarray:
    """The person on each image (N,), with separate negative numbers for −1; without people each image is separate."""
    if people is None:
        return np.arange(images)
    if len(people) != images:
        raise DataError(f"domain probe: {len(people)} people are given for {images} images.")
    return np.where(people < 0, -1 - np.arange(images), people)


def _first_half(people: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mask (N,) of the images of a random half of the people."""
    everybody = np.unique(people)
    if len(everybody) < 2:  # clusters may collapse to one, which should not end a run
        return np.arange(len(people)) < len(people) // 2
    return np.isin(people, random.permutation(everybody)[: len(everybody) // 2])
