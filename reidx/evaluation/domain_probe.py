"""A probe of how much of the domain is left in features: can a linear classifier tell source from target?"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from reidx.errors import DataError

LIMIT = 2000
"""The most images of a side that are looked at."""


def domain_probe(
    source: Tensor,
    target: Tensor,
    *,
    seed: int,
    source_people: np.ndarray | None = None,
    target_people: np.ndarray | None = None,
) -> float:
    """Balanced held-out accuracy of telling source (N,D) from target (M,D) by a linear classifier: 0.5 = cannot, 1 = can.

    A logistic regression on standardised features learns from one half of the images of each side and is tested on the other
    half; both sides count alike. As many images of either are drawn by ``seed``, 2,000 at most; by chance alone the figure
    leaves 0.5 by about 0.5/√n, n the images (or people) that are tested.

    Images of one person are much alike, and he is in one domain only: whom the classifier has learnt by heart it recognises in
    the other half too, and the figure is near 1 though no domain is to be seen. With ``source_people`` (N,) and
    ``target_people`` (M,), who is on each image (identities or pseudo labels, −1 is a person of his own), the halves are of
    people, and those tested are new to it (of images where all are one person).

    Raises :class:`DataError` for fewer than 4 images of a side, columns that do not match, values not finite.
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
    """Who is on each image (N,), those that are nobody's numbered below 0; without people each image is its own."""
    if people is None:
        return np.arange(images)
    if len(people) != images:
        raise DataError(f"domain probe: {len(people)} people are given for {images} images.")
    return np.where(people < 0, -1 - np.arange(images), people)


def _first_half(people: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Which images (N,) show one of half of the people, drawn by ``random``."""
    everybody = np.unique(people)
    if len(everybody) < 2:  # clusters may collapse to one, which is no reason to end a run
        return np.arange(len(people)) < len(people) // 2
    return np.isin(people, random.permutation(everybody)[: len(everybody) // 2])
