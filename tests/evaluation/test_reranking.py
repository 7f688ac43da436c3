"""KReciprocal against the paper's procedure on dense arrays, and rerank() with what a re-ranker names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.errors import ConfigError, DataError
from reidx.evaluation import KReciprocal, evaluate, rerank


def dense(query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, share: float) -> np.ndarray:
    """Compute the re-ranked distances (Q, G) set by set."""
    both = np.concatenate([query, gallery]).astype(np.float64)
    n = len(both)
    squared = ((both[:, None] - both) ** 2).sum(axis=2)
    normal = squared / np.maximum(squared.max(axis=1, keepdims=True), 1e-12)
    ordering = squared.astype(np.float32)
    np.fill_diagonal(ordering, -1)
    rank = np.argsort(ordering, axis=1, kind="stable")

    def mutual(i, width):
        return [j for j in rank[i, : width + 1] if i in rank[j, : width + 1]]

    codes = np.zeros((n, n))
    for i in range(n):
        own = mutual(i, k1)
        members = set(own)
        for j in own:
            other = mutual(j, round(k1 / 2))
            if len(set(other) & set(own)) > 2 / 3 * len(other):
                members |= set(other)
        for j in members:
            codes[i, j] = np.exp(-normal[i, j])
        codes[i] /= codes[i].sum()
    codes = np.stack([codes[rank[i, :k2]].mean(axis=0) for i in range(n)])
    q = len(query)
    result = np.empty((q, n - q))
    for i in range(q):
        for g in range(q, n):
            shared = np.minimum(codes[i], codes[g]).sum()
            result[i, g - q] = (1 - share) * (1 - shared / (2 - shared)) + share * normal[i, g]
    return result


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9999),
    queries=st.integers(1, 8),
    images=st.integers(1, 40),
    k=st.sampled_from([(20, 6), (6, 3), (5, 1), (1, 2)]),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    unit=st.booleans(),
)
def test_equals_the_procedure(seed, queries, images, k, share, unit):
    random = np.random.default_rng(seed)
    both = random.normal(size=(6, 5))[random.integers(0, 6, queries + images)] + 0.5 * random.normal(
        size=(queries + images, 5)
    )
    if unit:
        both /= np.linalg.norm(both, axis=1, keepdims=True)
    both = both.astype(np.float32)
    query, gallery = both[:queries], both[queries:]
    result = rerank(KReciprocal(*k, share), query, gallery)
    factor, offset = result.block(slice(0, queries))
    squared = ((query[:, None].astype(np.float64) - gallery) ** 2).sum(axis=2)
    assert np.abs(factor[:, None] * squared + offset - dense(query, gallery, *k, share)).max() < 1e-5


def test_ranking_equals_that_of_dense_distances():
    random = np.random.default_rng(3)
    centres = random.normal(size=(12, 6))
    ids, cams = random.integers(0, 12, 150), random.integers(0, 3, 150)
    both = (centres[ids] + 0.9 * random.normal(size=(150, 6))).astype(np.float32)
    parts = (both[:30], both[30:], ids[:30], ids[30:], cams[:30], cams[30:])
    plain, better = evaluate(*parts), evaluate(*parts, reranking=rerank(KReciprocal(), *parts[:2]), details=True)
    assert better.mAP > plain.mAP + 0.02
    assert better.card["reranking"] == {"method": "k-reciprocal", "k1": 20, "k2": 6, "lambda": 0.3}
    distances = dense(both[:30], both[30:], 20, 6, 0.3)
    for q in range(30):
        kept = ~((ids[30:] == ids[q]) & (cams[30:] == cams[q]))
        order = np.argsort(np.where(kept, distances[q], np.inf), kind="stable")[: kept.sum()]
        hits = np.nonzero(ids[30:][order] == ids[q])[0] + 1
        if len(hits):
            assert better.details.ap[q] == pytest.approx(np.mean(np.arange(1, len(hits) + 1) / hits))
            assert better.details.top[q].tolist() == order[:10].tolist()


def test_lambda_one_changes_nothing():
    random = np.random.default_rng(1)
    both, ids, cams = random.normal(size=(60, 4)), random.integers(0, 5, 60), random.integers(0, 2, 60)
    parts = (both[:20], both[20:], ids[:20], ids[20:], cams[:20], cams[20:])
    reranked = evaluate(*parts, reranking=rerank(KReciprocal(lambda_=1.0), *parts[:2]))
    assert reranked.mAP == pytest.approx(evaluate(*parts).mAP, abs=1e-9)


def test_bad_input_is_refused():
    for wrong in ({"lambda_": 1.5}, {"k1": 4, "k2": 6}, {"k2": 0}):
        with pytest.raises(ConfigError, match="needs 1 <= k2 <= k1 \\+ 1 and 0 <= lambda_ <= 1"):
            KReciprocal(**wrong)
    with pytest.raises(DataError, match="2 columns"):
        rerank(KReciprocal(), torch.ones(2, 2), torch.ones(2, 3))
    with pytest.raises(DataError, match=r"\(2, 2\), not \(2, 3\)"):
        evaluate(
            torch.ones(2, 3), torch.ones(3, 3), [1, 1], [1, 1, 1], [0, 0], [1, 1, 1],
            reranking=rerank(KReciprocal(), torch.ones(2, 3), torch.ones(2, 3)),
        )  # fmt: skip


@pytest.mark.parametrize(("offset", "spread"), [(1000, 1e-3), (1000, 1e-2), (0, 1e-9), (0, 1e-18)])
def test_close_rows_far_from_zero(offset, spread):
    """Products of these float32 rows carry no information about their distances."""
    random = np.random.default_rng(0)
    both = (offset + spread * random.normal(size=(40, 5))).astype(np.float32)
    query, gallery = both[:8], both[8:]
    found = KReciprocal(6, 3)(torch.from_numpy(query), torch.from_numpy(gallery))
    squared = ((both[:8, None].astype(np.float64) - both) ** 2).sum(axis=2)
    assert np.allclose(found.largest, squared.max(axis=1), rtol=1e-5, atol=0)
    factor, shift = found.block(slice(0, 8))
    # The dense procedure at a scale that it can handle: the re-ranked distance does not depend on the scale.
    expected = dense(*np.split((both.astype(np.float64) - offset) / spread, [8]), 6, 3, 0.3)
    assert np.allclose(factor[:, None] * squared[:, 8:] + shift, expected, atol=1e-4)


def test_vanishing_weights_stay_finite():
    """Weights of exp(-huge) leave no gaps in the encodings."""
    x = torch.from_numpy(1e4 + 1e-2 * np.random.default_rng(0).normal(size=(600, 2))).float()
    assert np.isfinite(rerank(KReciprocal(30, 6), x[:300], x[300:]).block(slice(0, 300))[1]).all()


def test_nothing_to_rerank():
    none = torch.zeros(0, 4)
    assert rerank(KReciprocal(), none, none).shape == (0, 0)
    assert rerank(KReciprocal(), none, torch.ones(3, 4)).shape == (0, 3)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_metric_and_blocks_do_not_change_distances(metric):
    random = np.random.default_rng(2)
    both = random.normal(size=(50, 6)).astype(np.float32)
    unit = both / np.linalg.norm(both, axis=1, keepdims=True) if metric == "cosine" else both
    found = rerank(KReciprocal(6, 3), both[:20], both[20:], metric)
    whole, expected = found.block(slice(0, 20))[1], dense(unit[:20], unit[20:], 6, 3, 0.3)
    squared = ((unit[:20, None].astype(np.float64) - unit[20:]) ** 2).sum(axis=2)
    assert np.abs(found.block(slice(0, 20))[0][:, None] * squared + whole - expected).max() < 1e-5
    assert np.array_equal(np.concatenate([found.block(slice(i, i + 7))[1] for i in (0, 7, 14)]), whole)


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (4, 1)])
def test_memory_bound_covers_one_dense_cluster(k1, k2):
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    reranker = KReciprocal(k1, k2)
    found = reranker(*torch.from_numpy(x).split([100, 300]))
    stored = 8 * (found.queries.nnz + found.gallery.nnz)
    assert stored < reranker.bytes_needed(400) < 100 * stored


def test_reranker_gets_a_camera_for_each_image():
    class ByCamera(KReciprocal):
        def __call__(self, query_features, gallery_features, *, query_cams):
            return super().__call__(query_features, gallery_features)

    features = torch.randn(3, 2), torch.randn(5, 2)
    with pytest.raises(DataError, match=r"rerank: reranker ByCamera needs query_cams\. Pass cameras"):
        rerank(ByCamera(), *features)
    with pytest.raises(DataError, match="rerank: query_cams must be 3 integers, one per image; got int64 of shape"):
        rerank(ByCamera(), *features, cameras=(np.zeros(1, int), np.zeros(5, int)))
