"""The distance of the DBSCAN variant, against its definition written out pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reidx_mmt.distance import RerankingJaccard
from scipy.sparse import csr_array

from reidx.labels.distances.jaccard import Jaccard


def features(images: int, seed: int = 0) -> torch.Tensor:
    """Return the features of images of 8 people, each near its person's mean."""
    generator = torch.Generator().manual_seed(seed)
    people = torch.randn(8, 16, generator=generator)
    return people[torch.arange(images) % 8] + 0.8 * torch.randn(images, 16, generator=generator)


def defined(x: torch.Tensor, k1: int, k2: int) -> np.ndarray:
    """Return all distances (N, N) by the definition: lists of k1 + 1, weights exp(−d²/max of the column), dense vectors.

    In float64, without any of the code under test.
    """
    x = torch.nn.functional.normalize(x.double(), dim=1).numpy()
    n = len(x)
    squared = np.array([[sum((a - b) ** 2) for b in x] for a in x])
    scaled = (squared / squared.max(axis=0)).T
    ranked = np.argsort(scaled, axis=1, kind="stable")
    half = round(k1 / 2) + 1

    def reciprocal(i: int, length: int) -> set[int]:
        return {int(j) for j in ranked[i, :length] if i in ranked[j, :length]}

    vectors = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1 + 1)
        expanded = set(own)
        for candidate in own:
            theirs = reciprocal(candidate, half)
            if len(theirs & own) > 2 / 3 * len(theirs):
                expanded |= theirs
        for j in expanded:
            vectors[i, j] = math.exp(-scaled[i, j])
        vectors[i] /= vectors[i].sum()
    vectors = np.array([np.mean([vectors[j] for j in ranked[i, :k2]], axis=0) for i in range(n)])
    shared = np.array([[np.minimum(a, b).sum() for b in vectors] for a in vectors])
    return 1 - shared / (2 - shared)


def dense(graph: csr_array) -> np.ndarray:
    """Return all distances (N, N) of a graph; 1 for a pair that it does not hold."""
    found, pairs = np.ones(graph.shape), graph.tocoo()
    found[pairs.row, pairs.col] = pairs.data
    np.fill_diagonal(found, 0.0)
    return found


@pytest.mark.parametrize(("images", "k1", "k2"), [(60, 20, 6), (60, 7, 3), (45, 10, 1), (12, 20, 6)])
def test_distance_is_the_definition(images: int, k1: int, k2: int) -> None:
    x = features(images, seed=images + k1)
    expected = defined(x, k1, k2)
    np.fill_diagonal(expected, 0.0)
    assert np.abs(dense(RerankingJaccard(k1, k2)(x)) - expected).max() < 1e-6
    # the core's distance differs by more than rounding, so this test can distinguish the two
    assert images <= k1 or np.abs(dense(Jaccard(k1, k2)(x)) - expected).max() > 1e-3


def test_distance_of_a_subset_equals_the_full() -> None:
    x = features(80)
    whole, cut = RerankingJaccard()(x), RerankingJaccard()(x, within=0.5)
    assert 0 < (dense(whole) <= 0.5).mean() < 1
    assert (dense(cut) == np.where(dense(whole) <= 0.5, dense(whole), 1)).all()
    assert (dense(RerankingJaccard()(x, among=whole)) == dense(whole)).all()


def test_equal_images_give_finite_distances() -> None:
    x = torch.ones(10, 4)
    assert (dense(RerankingJaccard(9, 1)(x)) < 1e-6).all()
    assert np.isfinite(RerankingJaccard(5, 2)(x).data).all()
