"""Self-paced labels: only those images stay in a cluster that would be in it at a stricter and at a looser criterion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reidx.contracts import LabelSet, RefinerContext
from reidx.errors import ConfigError


class SelfPaced:
    """Reliable cluster images only; every other image is a class alone.

    Labels without outliers: the reliable images of a cluster keep it, every other image is a class of its own.

    The clusterer is asked again at eps − ``gap`` (tight) and eps + ``gap`` (loose). An image that one of the three leaves
    un-clustered counts there as a cluster of its own. With I the images that share the label of image i, and J those that
    share its tight or loose label,

        compactness_i = 1 − |I ∩ J| / |I ∪ J| of the tight labels, independence_i the same of the loose ones:

    0 where the cluster does not fall apart, or does not grow into others. Image i is reliable if the least
    independence of its cluster is at most the threshold, and its own compactness is the least of its cluster.
    The threshold is taken once, at the first labelling that has a cluster of more than one image: of those clusters'
    independences in ascending order, number round(``quantile`` · n) of 0..n−1; so about that share of the clusters is kept at
    first, and more or fewer as they improve or not (Ge et al., NeurIPS 2020; LP section 5.2).

    Weights and other numbers of the images stay; soft targets of an earlier refiner are dropped, as they are of other
    classes. The report counts ``clusters`` of more than one image, ``outliers`` (all other images), and has the ``threshold``.

    Raises :class:`ConfigError` for a ``gap`` that is not positive, a ``quantile`` outside [0, 1], and a clusterer without eps.
    """

    outliers = "never"
    reach = 0.0  # it looks at no distance itself

    def __init__(self, gap: float = 0.02, quantile: float = 0.9) -> None:
        if gap <= 0:
            raise ConfigError(f"SelfPaced: gap is {gap}; it must be positive.")
        if not 0.0 <= quantile <= 1.0:
            raise ConfigError(f"SelfPaced: quantile is {quantile}; it must lie between 0 and 1.")
        self.gap, self.quantile = gap, quantile
        self.threshold: float | None = None

    def variations(self, clusterer: Any) -> list[dict[str, float]]:
        """The settings of the clusterer that it asks for: tight, then loose. Raises :class:`ConfigError` if it has no eps."""
        eps = getattr(clusterer, "eps", None)
        if eps is None:
            raise ConfigError(
                f"SelfPaced clusters again at a smaller and a larger eps, but {type(clusterer).__name__} has none. "
                "Use a clusterer that has, such as DBSCAN."
            )
        return [{"eps": eps - self.gap}, {"eps": eps + self.gap}]

    def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
        tight, loose = (separate(context.cluster(**change)) for change in self.variations(context.clusterer))
        given = separate(labels.labels)
        compactness = dissimilarity(given, tight)
        independence = least(dissimilarity(given, loose), given)
        several = np.bincount(given) > 1
        if self.threshold is None and several.any():
            ordered = np.sort(independence[several])
            self.threshold = float(ordered[min(round(self.quantile * len(ordered)), len(ordered) - 1)])
        reliable = compactness <= least(compactness, given)[given]
        if self.threshold is not None:
            reliable &= (independence <= self.threshold)[given]
        refined = separate(np.where(reliable, given, -1))
        sizes = np.bincount(refined)
        report = {"clusters": float((sizes > 1).sum()), "outliers": float((sizes == 1).sum())}
        if self.threshold is not None:
            report["threshold"] = self.threshold
        return replace(labels, labels=refined, soft_targets=None, report={**labels.report, **report})

    def state_dict(self) -> dict[str, float]:
        """The threshold, once there is one."""
        return {} if self.threshold is None else {"threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.threshold = state.get("threshold")


def separate(labels: np.ndarray) -> np.ndarray:
    """Labels (N,) in which each −1 has become a class of its own, behind the others; 0..K−1 without gaps."""
    alone = labels < 0
    apart = np.where(alone, labels.max(initial=-1) + np.cumsum(alone), labels)
    return np.unique(apart, return_inverse=True)[1].astype(np.int64)


def dissimilarity(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each image 1 − |I ∩ J| / |I ∪ J| (N,), of the images I and J that share its label in the two labellings.

    Both are without −1. Counted by pairs of labels: no more than O(N log N), whatever N is.
    """
    pairs = labels * (int(others.max(initial=0)) + 1) + others
    _, pair, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    both = counts[pair]
    return 1.0 - both / (np.bincount(labels)[labels] + np.bincount(others)[others] - both)


def least(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The smallest value (K,) of the images of each label 0..K−1."""
    smallest = np.full(int(labels.max(initial=-1)) + 1, np.inf)
    np.minimum.at(smallest, labels, values)
    return smallest
