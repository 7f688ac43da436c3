"""Query expansion against loops over vectors, values worked out by hand, and messages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.errors import ConfigError, DataError
from reidx.evaluation import AlphaQueryExpansion, AverageQueryExpansion, NoCameraFilter, evaluate, rerank


def naive(query: list[float], gallery: list[list[float]], k: int, alpha: float) -> list[float]:
    """Return the re-ranked distances of one query, number by number."""

    def squared(a, b):
        return math.fsum((p - q) ** 2 for p, q in zip(a, b))

    def length(a):
        return math.sqrt(math.fsum(p * p for p in a))

    near = sorted(range(len(gallery)), key=lambda g: (squared(query, gallery[g]), g))[:k]
    total = list(query)
    for g in near:
        lengths = length(query) * length(gallery[g])
        cosine = math.fsum(p * q for p, q in zip(query, gallery[g])) / lengths if lengths else 0.0
        total = [p + max(cosine, 0.0) ** alpha * q for p, q in zip(total, gallery[g])]
    size = length(total)
    expanded = [p * length(query) / size for p in total] if size else query
    return [squared(expanded, image) for image in gallery]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), k=st.integers(1, 12), alpha=st.sampled_from([0.0, 1.0, 3.0]),
    kind=st.sampled_from(["gaussian", "unit", "grid"]),
)  # fmt: skip
def test_equals_the_loops(seed, k, alpha, kind):
    random = np.random.default_rng(seed)
    drawn = random.integers(-1, 2, (16, 3)) if kind == "grid" else random.normal(size=(16, 3))
    both = drawn.astype(np.float32)
    if kind == "unit":
        both /= np.linalg.norm(both, axis=1, keepdims=True)
    query, gallery = both[:6], both[6:]
    reranker = AlphaQueryExpansion(k, alpha) if alpha else AverageQueryExpansion(k)
    factor, offset = rerank(reranker, query, gallery).block(slice(0, 6))
    expected = [naive(row.tolist(), gallery.tolist(), k, alpha) for row in query]
    assert not factor.any() and offset == pytest.approx(np.array(expected), abs=1e-5)


def test_expansion_worked_out_by_hand():
    """The two nearest images of (1, 0) are (1, 0) and (0.8, 0.6), with cosines 1 and 0.8."""
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.8, 0.6], [1.0, 0.0]])
    for reranker, direction in (
        (AverageQueryExpansion(2), (2.8, 0.6)),
        (AlphaQueryExpansion(2, 3.0), (2 + 0.8**3 * 0.8, 0.8**3 * 0.6)),
    ):
        found = reranker(query, gallery)
        assert found.queries[0] == pytest.approx(np.array(direction) / np.linalg.norm(direction), abs=1e-6)


def test_expansion_finds_a_match_through_another():
    """The second match is far from the query, but near the first one."""
    angles = torch.tensor([0.0, 0.5, 1.05, -0.9])
    features = torch.stack([angles.cos(), angles.sin()], 1)
    parts = features[:1], features[1:], [7], [7, 7, 8]
    plain = evaluate(*parts, protocol=NoCameraFilter())
    better = evaluate(*parts, protocol=NoCameraFilter(), reranking=rerank(AverageQueryExpansion(1), *parts[:2]))
    assert plain.mAP == pytest.approx((1 + 2 / 3) / 2) and better.mAP == 1
    assert better.card["reranking"] == {"method": "average query expansion", "k": 1}
    assert AlphaQueryExpansion().card() == {"method": "alpha query expansion", "k": 5, "alpha": 3.0}


def test_zero_features_stay_finite():
    zeros = torch.zeros(2, 3)
    assert np.isfinite(AlphaQueryExpansion(2)(zeros, torch.cat([zeros, torch.ones(1, 3)])).block(slice(0, 2))[1]).all()
    opposite = AverageQueryExpansion(1)(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
    assert opposite.queries.tolist() == [[1, 0]], "a sum of zero leaves the query as it is"


def test_bad_input_is_refused():
    for wrong in ({"k": 0}, {"alpha": -1.0}):
        with pytest.raises(ConfigError, match=r"AlphaQueryExpansion: .*needs k >= 1 and alpha >= 0"):
            AlphaQueryExpansion(**wrong)
    with pytest.raises(DataError, match="query features have 2 columns, gallery features 3"):
        rerank(AverageQueryExpansion(), torch.ones(2, 2), torch.ones(2, 3))
