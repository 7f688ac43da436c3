"""Self-paced labels: images stay in a cluster only if it is stable under a stricter and a looser criterion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reidx.contracts import LabelSet, RefinerContext
from reidx.errors import ConfigError


class SelfPaced:
    """Clusters of reliable images; every other image is its own class.

    Returns labels without outliers: reliable images keep their cluster, every other image becomes a single-image class.

    The clusterer runs again at eps − ``gap`` (tight) and eps + ``gap`` (loose). In each of the three labellings, an
    un-clustered image counts as a single-image cluster. With I the images that share the label of image i, and J those that
    share its tight or loose label,

        compactness_i = 1 − |I ∩ J| / |I ∪ J| with the tight labels, independence_i the same with the loose labels.

    Compactness is 0 if the cluster does not fall apart, independence is 0 if it does not grow into others. Image i is
    reliable if the smallest independence in its cluster is at most the threshold and its compactness is the smallest in its
    cluster. The threshold is fixed at the first labelling with a cluster of more than one image: of those n clusters'
    independences in ascending order, the entry round(``quantile`` · n) of 0..n−1. About that share of the clusters is kept at
    first; the share then changes with their independence. Source: SpCL (Ge et al., NeurIPS 2020), cluster reliability
    criterion.

    Weights and other values per image are kept. Soft targets of an earlier refiner are dropped, because they refer to other
    classes. The report has the number of ``clusters`` with more than one image, ``outliers`` (all other images) and the
    ``threshold``.

    Raises :class:`ConfigError` for a ``gap`` that is not positive, a ``quantile`` outside [0, 1], or a clusterer without eps.
    """

    outliers = "never"
    reach = 0.0  # it reads no distance itself

    def __init__(self, gap: float = 0.02, quantile: float = 0.9) -> None:
        if gap <= 0:
            raise ConfigError(f"SelfPaced: gap is {gap}; it must be positive.")
        if not 0.0 <= quantile <= 1.0:
            raise ConfigError(f"SelfPaced: quantile is {quantile}; it must lie between 0 and 1.")
        self.gap, self.quantile = gap, quantile
        self.threshold: float | None = None

    def variations(self, clusterer: Any) -> list[dict[str, float]]:
        """Return the tight, then the loose setting of the clusterer. Raises :class:`ConfigError` if it has no eps."""
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
        """Return the threshold, once it is fixed; empty before."""
        return {} if self.threshold is None else {"threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the threshold from :meth:`state_dict`."""
        self.threshold = state.get("threshold")


def separate(labels: np.ndarray) -> np.ndarray:
    """Return labels (N,) 0..K−1 without gaps, in which each −1 has become a single-image class after the others."""
    alone = labels < 0
    apart = np.where(alone, labels.max(initial=-1) + np.cumsum(alone), labels)
    return np.unique(apart, return_inverse=True)[1].astype(np.int64)


def dissimilarity(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return 1 − |I ∩ J| / |I ∪ J| (N,) for each image; I and J are the images that share its label in the two labellings.

    Neither labelling has −1. It counts pairs of labels, in O(N log N).
    """
    pairs = labels * (int(others.max(initial=0)) + 1) + others
    _, pair, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    both = counts[pair]
    return 1.0 - both / (np.bincount(labels)[labels] + np.bincount(others)[others] - both)


def least(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the smallest value (K,) among the images of each label 0..K−1."""
    smallest = np.full(int(labels.max(initial=-1)) + 1, np.inf)
    np.minimum.at(smallest, labels, values)
    return smallest
