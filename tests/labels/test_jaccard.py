"""Sparse Jaccard graph against dense arithmetic, on input of every kind and on each backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from reidx.errors import ConfigError, DataError
from reidx.labels import DBSCAN, Jaccard, fuse
from reidx.labels.distances import jaccard as module
from reidx.labels.neighbours import encoding

BACKENDS = ["auto", "faiss", "torch"]
KINDS = ["gaussian", "clustered", "duplicated", "identical", "outlier", "grid"]


def dense(graph) -> np.ndarray:
    """Return the distances as a matrix; explicit zeros stay zeros, absent pairs are 1."""
    matrix = np.ones(graph.shape, np.float32)
    entries = graph.tocoo()
    matrix[entries.row, entries.col] = entries.data
    return matrix


def by_sets(x: np.ndarray, order: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """Compute the definition with sets and dictionaries."""
    lists = order.tolist()
    n, x = len(x), x.astype(np.float64)

    def mutual(i: int, width: int) -> set[int]:
        return {j for j in lists[i][:width] if i in lists[j][:width]}

    codes = []
    for i in range(n):
        members = set(mutual(i, k1))
        for c in mutual(i, k1):
            half = mutual(c, int(np.around(k1 / 2)) + 1)
            if len(half & mutual(i, k1)) > 2 / 3 * len(half):
                members |= half
        weights = {j: np.exp(-((x[i] - x[j]) ** 2).sum()) for j in members}
        total = sum(weights.values())
        codes.append({j: w / total for j, w in weights.items()})
    averaged = []
    for i in range(n):
        near = lists[i][:k2]
        keys = set().union(*(codes[j] for j in near))
        averaged.append({t: sum(codes[j].get(t, 0) for j in near) / len(near) for t in keys})
    result = np.ones((n, n))
    for i in range(n):
        for j in range(n):
            shared = sum(min(v, averaged[j].get(t, 0)) for t, v in averaged[i].items())
            result[i, j] = max(1 - shared / (2 - shared), 0)
    return result


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 45),
    d=st.integers(2, 8),
    k=st.sampled_from([(30, 6), (20, 6), (25, 1), (7, 3), (4, 4), (1, 1)]),
    eps=st.sampled_from([0.3, 0.5, 0.6, 0.9]),
    seed=st.integers(0, 9999),
)
def test_equals_the_definition(draw, sorted_lists, backend, kind, n, d, k, eps, seed):
    x = draw(kind, n, d, seed) + np.float32(1e-3)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = torch.nn.functional.normalize(torch.from_numpy(x), dim=1)
    graph = Jaccard(*k, backend=backend)(x)
    expected = by_sets(x.numpy(), sorted_lists(x.numpy(), x.numpy(), k[0], True)[1], *k)
    assert graph.shape == (n, n)
    assert graph.dtype == np.float32
    assert graph.has_canonical_format
    assert np.abs(dense(graph) - expected).max() < 1e-5
    assert np.array_equal(dense(graph), dense(graph).T)
    assert np.all(graph.data < 1) and np.all(graph.diagonal() < 1e-5)
    cut = Jaccard(*k, backend=backend)(x, within=eps)
    assert np.array_equal(dense(cut), np.where(dense(graph) <= np.float32(eps), dense(graph), np.float32(1)))
    assert np.array_equal(DBSCAN(eps)(cut), DBSCAN(eps)(graph))

    from sklearn.cluster import DBSCAN as Peer

    assume(np.abs(expected - eps).min() > 1e-5)  # at exactly eps, rounding would decide
    peer = Peer(eps=eps, min_samples=4, metric="precomputed").fit_predict(expected)
    assert np.array_equal(DBSCAN(eps, 4)(graph), peer)


def test_worked_out_by_hand():
    # Two pairs far apart, k1 = 2: every image and its twin are each other's whole list, so R = E = the pair, and
    # k2 = 1 leaves V(i) = {i: a, twin: 1 - a} with a = 1 / (1 + exp(-d²)).
    angle = np.array([0.0, 0.1, 3.0, 3.1])
    x = torch.tensor(np.stack([np.cos(angle), np.sin(angle)], axis=1), dtype=torch.float32)
    a = 1 / (1 + np.exp(-(2 - 2 * np.cos(0.1))))
    shared = 2 * (1 - a)  # min(a, 1 - a) twice
    graph = dense(Jaccard(2, 1)(x))
    assert graph[0, 1] == pytest.approx(1 - shared / (2 - shared), abs=1e-6)
    assert graph[0, 2] == 1 and graph[0, 0] == 0
    # With k2 = 2 both rows become the same mean: distance 0, stored.
    averaged = Jaccard(2, 2)(x)
    assert averaged.nnz == 8 and dense(averaged)[0, 1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_some_pairs_equal_those_of_the_whole(draw, index):
    x = torch.nn.functional.normalize(torch.from_numpy(draw("clustered", 60, 6, 0)), dim=1)
    whole = dense(Jaccard(10, 3)(x))
    asked = np.random.default_rng(0).random((60, 60)) < 0.2
    asked |= asked.T
    pairs = csr_array(asked.astype(np.float32))
    pairs.indptr, pairs.indices = pairs.indptr.astype(index), pairs.indices.astype(index)
    some, near = Jaccard(10, 3)(x, among=pairs), Jaccard(10, 3)(x, within=0.5, among=pairs)
    assert np.array_equal(dense(some), np.where(asked, whole, np.float32(1)))
    assert np.array_equal(dense(near), np.where(asked & (whole <= 0.5), whole, np.float32(1)))
    assert 60 < near.nnz < some.nnz < asked.sum() and some.has_canonical_format


def test_norm_of_the_features_does_not_matter():
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(x, dim=1)
    assert np.abs(dense(Jaccard(10, 3)(x)) - dense(Jaccard(10, 3)(unit))).max() < 1e-5


def test_threads_do_not_change_a_bit():
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    graphs, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            graphs.append(Jaccard()(x))
    finally:
        torch.set_num_threads(before)
    for graph in graphs[1:]:
        for part in ("data", "indices", "indptr"):
            assert np.array_equal(getattr(graph, part), getattr(graphs[0], part))


def test_no_image_and_one_image():
    assert Jaccard()(torch.zeros(0, 8)).shape == (0, 0)
    one = Jaccard()(torch.ones(1, 8))
    assert one.nnz == 1 and one.data[0] == 0
    assert DBSCAN()(one).tolist() == [-1]
    assert DBSCAN()(Jaccard()(torch.zeros(0, 8))).shape == (0,)


def test_bad_input_is_refused():
    x = torch.randn(10, 4)
    x[2, 2] = float("nan")
    with pytest.raises(DataError, match="1 of 10 rows"):
        Jaccard()(x)
    with pytest.raises(DataError, match="all zeros"):
        Jaccard()(torch.zeros(10, 4))
    with pytest.raises(ConfigError, match="1 <= k2 <= k1"):
        Jaccard(k1=5, k2=6)


def test_fused_views_are_the_weighted_sum():
    generator = torch.Generator().manual_seed(0)
    views = [Jaccard(8, 3)(torch.randn(60, 6, generator=generator)) for _ in range(3)]
    weights = [0.7, 0.15, 0.15]
    expected = sum(w * dense(view) for w, view in zip(weights, views, strict=True))
    assert np.abs(dense(fuse(views, weights)) - expected).max() < 1e-6
    # Three equal views give that view for any weights; a zero distance stays stored.
    same = fuse([views[0]] * 3, weights)
    assert same.nnz == views[0].nnz and np.abs(dense(same) - dense(views[0])).max() < 1e-6
    with pytest.raises(ConfigError, match="sum to 1"):
        fuse(views, [0.5, 0.15, 0.15])
    with pytest.raises(ConfigError, match="sum to 1"):
        fuse(views, [float("nan"), 0.5, 0.5])
    with pytest.raises(DataError, match="different images"):
        fuse([views[0], views[1][:5, :5]], [0.5, 0.5])


def test_graph_with_64_bit_indices_is_equal(draw, monkeypatch):
    x = torch.nn.functional.normalize(torch.from_numpy(draw("clustered", 60, 6, 0)), dim=1)
    graph = Jaccard(10, 3)(x)
    monkeypatch.setattr(encoding, "_NARROW", 50)
    wide = Jaccard(10, 3)(x)
    assert graph.indices.dtype == graph.indptr.dtype == np.int32
    assert wide.indices.dtype == wide.indptr.dtype == np.int64
    assert np.array_equal(dense(graph), dense(wide)) and np.array_equal(DBSCAN()(graph), DBSCAN()(wide))


def test_graph_beyond_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal comes before the graph is built; with enough memory or fewer pairs the graph is built."""
    x = torch.nn.functional.normalize(torch.ones(300, 8) + 1e-4 * torch.randn(300, 8), dim=1)
    whole = Jaccard()(x)
    monkeypatch.setattr(module, "_LARGE", 100)
    monkeypatch.setattr(module, "free_memory", lambda: 1e4)
    with pytest.raises(DataError, match=r"of 300 images within distance 1: .*network may have collapsed"):
        Jaccard()(x)
    apart = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "free_memory", lambda: 14.0 * 3 * 300)
    assert Jaccard()(apart, within=0.01).nnz < 3 * 300
    monkeypatch.setattr(module, "free_memory", lambda: 14.0 * 300 * 300)
    assert Jaccard()(x).nnz == whole.nnz


def test_free_memory_is_positive() -> None:
    assert module.free_memory() > 0


def test_pairs_of_other_images_are_refused() -> None:
    features = torch.nn.functional.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(DataError, match="the requested pairs are of 7 images, the features of 20"):
        Jaccard(8, 2)(features, among=csr_array(np.eye(7, dtype=np.float32)))
