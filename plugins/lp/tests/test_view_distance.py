"""The distance over the views against its definition in loops, with cuts, and in the cases that equal one view."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reidx_lp.view_distance import ViewFusedJaccard
from scipy.sparse import csr_array
from torch import Tensor

from reidx.errors import ConfigError
from reidx.labels import Jaccard

VIEWS = ("global", "upper", "lower")


def bank(images: int = 40, groups: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Three views (N,5) that agree to different degrees on similar images."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(groups, 5, generator=generator)[torch.arange(images) % groups]
    noise = {"global": 0.3, "upper": 0.5, "lower": 0.8}
    return {v: F.normalize(middle + noise[v] * torch.randn(images, 5, generator=generator)) for v in VIEWS}


def dense(graph: csr_array) -> np.ndarray:
    """All distances; a pair that is not stored has a distance of 1."""
    matrix = np.ones(graph.shape)
    entries = graph.tocoo()
    matrix[entries.row, entries.col] = entries.data
    return matrix


def jaccard_by_hand(features: Tensor, k1: int, k2: int) -> list[list[float]]:
    """The k-reciprocal Jaccard distance of one view, step by step."""
    x = features.double().tolist()
    n = len(x)
    squared = [[sum((a - b) ** 2 for a, b in zip(x[i], x[j])) for j in range(n)] for i in range(n)]
    near = [sorted(range(n), key=lambda j: (j != i, squared[i][j], j))[:k1] for i in range(n)]
    half = round(k1 / 2) + 1
    whole = [{j for j in near[i] if i in near[j]} for i in range(n)]
    halves = [{j for j in near[i][:half] if i in near[j][:half]} for i in range(n)]
    rows = []
    for i in range(n):
        members = set(whole[i])
        for c in whole[i]:
            if 3 * len(halves[c] & whole[i]) > 2 * len(halves[c]):
                members |= halves[c]
        share = {j: math.exp(-squared[i][j]) for j in members}
        rows.append([share.get(j, 0.0) / sum(share.values()) for j in range(n)])
    mean = [[sum(rows[m][t] for m in near[i][:k2]) / k2 for t in range(n)] for i in range(n)]
    overlap = [[sum(min(a, b) for a, b in zip(mean[i], mean[j])) for j in range(n)] for i in range(n)]
    return [[max(1 - s / (2 - s), 0.0) for s in row] for row in overlap]


@pytest.mark.parametrize(("k1", "k2"), [(8, 3), (6, 1)])
@pytest.mark.parametrize("lambda1", [0.0, 0.15, 0.4, 0.5])
def test_against_the_definition_in_loops(k1: int, k2: int, lambda1: float) -> None:
    views = bank()
    by_hand = {view: jaccard_by_hand(views[view], k1, k2) for view in VIEWS}
    graph = dense(ViewFusedJaccard(k1, k2, lambda1)(views))
    for i in range(40):
        for j in range(40):
            g, u, d = (by_hand[view][i][j] for view in VIEWS)
            assert graph[i, j] == pytest.approx((1 - 2 * lambda1) * g + lambda1 * u + lambda1 * d, abs=1e-5)
    assert 0.1 < (graph < 0.99).mean() < 0.9  # some pairs are stored, but not all


@pytest.mark.parametrize("lambda1", [0.0, 0.05, 0.15, 0.25, 0.4, 0.5])
@pytest.mark.parametrize("within", [0.0, 0.3, 0.6, 0.7, 0.95, 1.0])
def test_cut_graph_equals_whole_up_to_within(lambda1: float, within: float) -> None:
    for seed in range(3):
        views = bank(seed=seed)
        distance = ViewFusedJaccard(8, 3, lambda1)
        whole, near = dense(distance(views)), distance(views, within=within)
        assert np.array_equal(dense(near), np.where(whole <= np.float32(within), whole, 1.0))
        assert near.has_canonical_format
        assert near.dtype == np.float32
        assert np.all(near.data <= np.float32(within))
        assert np.all(near.data < 1)


def test_later_views_compute_only_remaining_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, csr_array | None]] = []

    def spied(self: Jaccard, features: Tensor, within: float = 1.0, among: csr_array | None = None) -> csr_array:
        asked.append((within, among))
        return original(self, features, within, among)

    original = Jaccard.__call__
    monkeypatch.setattr(Jaccard, "__call__", spied)
    views = bank()
    ViewFusedJaccard(8, 3, lambda1=0.15)(views, within=0.6)
    # a view is cut where its part of the sum exceeds 0.6: 0.7 d > 0.6; no d has 0.15 d > 0.6
    assert [reach for reach, _ in asked] == [pytest.approx(0.6 / 0.7, abs=1e-4), 1.0, 1.0]
    # and it is computed only at the remaining pairs: 0.7 g, then 0.7 g + 0.15 u at most 0.6
    g, u = (dense(original(Jaccard(8, 3), views[view])) for view in ("global", "upper"))
    expected = [None, 0.7 * g <= 0.6, 0.7 * g + 0.15 * u <= 0.6]
    for (_, pairs), kept in zip(asked, expected, strict=True):
        assert (pairs is None) == (kept is None)
        assert pairs is None or np.array_equal(dense(pairs) < 1, kept)
    assert expected[1].sum() > expected[2].sum()
    asked.clear()
    ViewFusedJaccard(8, 3, lambda1=0.15)(views)
    assert asked == [(1.0, None)] * 3


@pytest.mark.parametrize("lambda1", [0.0, 0.15, 0.3, 0.5])
def test_graph_is_symmetric_with_zero_diagonal(lambda1: float) -> None:
    graph = dense(ViewFusedJaccard(8, 3, lambda1)(bank()))
    assert np.array_equal(graph, graph.T)
    assert graph.diagonal().max() < 1e-5
    assert graph.min() >= 0


@pytest.mark.parametrize("lambda1", [0.0, 0.15, 0.3, 0.5])
def test_three_equal_views_equal_one(lambda1: float) -> None:
    view = bank()["upper"]
    fused = ViewFusedJaccard(8, 3, lambda1)(dict.fromkeys(VIEWS, view))
    assert np.abs(dense(fused) - dense(Jaccard(8, 3)(view))).max() < 1e-6


@pytest.mark.parametrize(("lambda1", "seen"), [(0.0, ["global"]), (0.15, [*VIEWS]), (0.5, ["upper", "lower"])])
def test_view_of_weight_zero_is_not_computed(lambda1: float, seen: list[str]) -> None:
    views = bank()
    graph = ViewFusedJaccard(8, 3, lambda1)({view: views[view] for view in seen})
    assert graph.shape == (40, 40)
    if lambda1 == 0.0:
        alone = Jaccard(8, 3)(views["global"])
        for part in ("data", "indices", "indptr"):
            assert np.array_equal(getattr(graph, part), getattr(alone, part))


@pytest.mark.parametrize("lambda1", [-0.1, 0.51, math.nan])
def test_lambda1_outside_its_range_is_refused(lambda1: float) -> None:
    with pytest.raises(ConfigError, match=r"lambda1 is .*; it must lie in \[0, 0\.5\]"):
        ViewFusedJaccard(lambda1=lambda1)
