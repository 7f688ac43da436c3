"""Progressive graph matching: each cluster of one modality gets a cluster of the other (Wu and Ye, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from reidx.contracts import LabelSet, RefinerContext
from reidx.memories.base import centroids


class ProgressiveGraphMatching:
    """Least-cost assignment of the clusters of two labellings to each other.

    Provides ``other_labels`` (N,): the cluster of the other labelling that is matched with the image's own, −1 for outliers.

    The cost of a pair of clusters is exp(−cos) of their centroids, the normalised means of unit features. Assignments follow
    each other (:func:`match_progressively`) until every cluster has a partner. With ``alternate`` only the first labelling has
    matches in even epochs of the stage, only the second one in odd epochs; the other one's are −1. A term of each direction
    then gives alternate learning. Source: PGM (Wu and Ye, "Unsupervised Visible-Infrared Person Re-Identification via
    Progressive Graph Matching and Alternate Learning", CVPR 2023) and its released code.

    Raises :class:`ValueError` unless there are two labellings.
    """

    provides = frozenset({"other_labels"})

    def __init__(self, labellings: Sequence[str], alternate: bool = True) -> None:
        if len(labellings) != 2:
            raise ValueError(f"ProgressiveGraphMatching matches two labellings, not {len(labellings)}.")
        self.alternate = alternate

    def __call__(self, labels: Sequence[LabelSet], contexts: Sequence[RefinerContext]) -> list[LabelSet]:
        first, second = (_centroids(given, context) for given, context in zip(labels, contexts, strict=True))
        partners = match_progressively(np.exp(-first @ second.T))
        turn = contexts[0].epoch % 2
        found = []
        for number, (given, partner) in enumerate(zip(labels, partners, strict=True)):
            matched = (given.labels >= 0) & (not self.alternate or number == turn)
            others = np.where(matched, partner[given.labels], -1)
            found.append(replace(given, extra={**given.extra, "other_labels": others}))
        return found


def match_progressively(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match rows with columns of costs (K,L), both at least 1; return the column of each row (K,), and the row of each column.

    A first assignment (Hungarian method) gives each row or column of the shorter side a different partner. The rest of the
    longer side is assigned to the whole shorter side again, until none is left; these matches are one-sided.
    """
    if costs.shape[0] < costs.shape[1]:
        columns_first = match_progressively(costs.T)
        return columns_first[1], columns_first[0]
    forward, backward = np.full(costs.shape[0], -1, np.int64), np.full(costs.shape[1], -1, np.int64)
    left = np.arange(len(costs))
    while len(left):
        rows, columns = linear_sum_assignment(costs[left])
        forward[left[rows]] = columns
        if len(left) == len(costs):
            backward[columns] = left[rows]
        left = np.delete(left, rows)
    return forward, backward


def _centroids(given: LabelSet, context: RefinerContext) -> np.ndarray:
    """The unit centroids (K,D) of the clusters, in float64."""
    features = F.normalize(context.features[context.feature].float())
    centres: np.ndarray = centroids(features, torch.from_numpy(given.labels).to(features.device)).double().cpu().numpy()
    return centres
