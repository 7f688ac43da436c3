"""Protocols: queries with a match that counts, and images that are both query and gallery."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.errors import DataError
from reidx.evaluation import Market1501, NoCameraFilter, Protocol, evaluate
from reidx.evaluation.matches import has_match, own_matches

PROTOCOLS = (Market1501(), NoCameraFilter())


def naive(rule, q_ids, g_ids, q_cams, g_cams, own):
    """Return the gallery images that count as matches of each query, pair by pair."""
    return [
        [
            g
            for g in range(len(g_ids))
            if g_ids[g] == q_ids[q] != -1
            and not (rule.camera_filter and g_cams[g] == q_cams[q])
            and (q, g) not in {tuple(pair) for pair in own.tolist()}
        ]
        for q in range(len(q_ids))
    ]


def made(seed: int, queries: int, images: int, pairs: int):
    random = np.random.default_rng(seed)
    ids, cams = random.integers(-1, 5, queries + images), random.integers(0, 3, queries + images)
    own = np.unique(np.stack([random.integers(0, queries, pairs), random.integers(0, images, pairs)], 1), axis=0)
    return (ids[:queries], ids[queries:], cams[:queries], cams[queries:]), own.astype(np.int64).reshape(-1, 2)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), queries=st.integers(1, 9), images=st.integers(1, 30), pairs=st.integers(0, 12),
    rule=st.sampled_from(PROTOCOLS),
)  # fmt: skip
def test_queries_with_a_match_equal_the_loop(seed, queries, images, pairs, rule):
    known, own = made(seed, queries, images, pairs)
    assert has_match(rule, known, own).tolist() == [bool(m) for m in naive(rule, *known, own)]
    assert has_match(rule, known).tolist() == [bool(m) for m in naive(rule, *known, own[:0])]
    lost = [set(a) - set(b) for a, b in zip(naive(rule, *known, own[:0]), naive(rule, *known, own))]
    pairs = sorted((q, g) for q, gs in enumerate(lost) for g in gs)
    assert sorted(map(tuple, own_matches(rule, known, own).tolist())) == pairs


@pytest.mark.parametrize("rule", PROTOCOLS, ids=lambda rule: rule.name)
def test_many_pairs_of_one_image_equal_the_loop(rule):
    known, own = made(0, 30, 40, 400)
    kept = own_matches(rule, known, own).tolist()
    lost = [set(a) - set(b) for a, b in zip(naive(rule, *known, own[:0]), naive(rule, *known, own))]
    assert len(own) > 256 and sorted(map(tuple, kept)) == sorted((q, g) for q, gs in enumerate(lost) for g in gs) != []


class Clothes(Protocol):
    """Protocol that ignores images of the query's person in the same clothes."""

    def __init__(self) -> None:
        super().__init__("clothes", "1", camera_filter=False)

    def ignored(self, query_ids, gallery_ids, query_cams, gallery_cams, *, query_clothes, gallery_clothes):
        alike = (query_ids[:, None] == gallery_ids) & (query_clothes[:, None] == gallery_clothes)
        return super().ignored(query_ids, gallery_ids, query_cams, gallery_cams) | alike


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), pairs=st.integers(0, 12))
def test_protocol_gets_the_columns_that_it_names(seed, pairs):
    (q_ids, g_ids, *cams), own = made(seed, 8, 25, pairs)
    random = np.random.default_rng(seed)
    worn = {"clothes": random.integers(0, 2, 8), "tracks": np.arange(8)}, {"clothes": random.integers(0, 2, 25)}
    other = worn[0]["clothes"][:, None] != worn[1]["clothes"]
    seen = [[g for g in range(25) if g_ids[g] == q_ids[q] != -1 and other[q, g]] for q in range(8)]
    known, left = (q_ids, g_ids, *cams), [[g for g in gs if [q, g] not in own.tolist()] for q, gs in enumerate(seen)]
    assert has_match(Clothes(), known, own, worn).tolist() == [bool(gs) for gs in left]
    lost = sorted((q, g) for q, gs in enumerate(seen) for g in gs if [q, g] in own.tolist())
    assert sorted(map(tuple, own_matches(Clothes(), known, own, worn).tolist())) == lost
    features = torch.from_numpy(random.normal(size=(33, 4)).astype(np.float32))
    if any(left):
        result = evaluate(features[:8], features[8:], *known, Clothes(), own=own, columns=worn)
        assert result.valid_queries == sum(map(bool, left))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), pairs=st.integers(0, 30), rule=st.sampled_from(PROTOCOLS))
def test_an_image_is_not_its_own_match(seed, pairs, rule):
    known, own = made(seed, 8, 25, pairs)
    random = np.random.default_rng(seed)
    features = torch.from_numpy(random.normal(size=(33, 4)).astype(np.float32))
    query, gallery = features[:8], features[8:]
    expected = naive(rule, *known, own)
    try:
        result = evaluate(query, gallery, *known, protocol=rule, own=own, details=True, top=25)
    except DataError:
        assert not any(expected)
        return
    scores = []
    for q in range(8):
        skipped = {g for g in range(25) if rule.ignored(*(k[[i]] for k, i in zip(known, (q, g, q, g))))[0, 0]}
        skipped |= {g for p, g in own.tolist() if p == q}
        distances = ((query[q].double() - gallery.double()) ** 2).sum(1)
        order = [g for g in distances.argsort(stable=True).tolist() if g not in skipped]
        assert [g for g in result.details.top[q].tolist() if g >= 0] == order
        hits = [rank for rank, g in enumerate(order, 1) if g in expected[q]]
        if hits:
            scores.append(sum((n + 1) / rank for n, rank in enumerate(hits)) / len(hits))
    assert result.mAP == pytest.approx(np.mean(scores), abs=1e-9)
    assert result.card["queries_without_match"] == 8 - len(scores) == 8 - result.valid_queries
    assert result.card["queries_in_gallery"] == len({q for q, _ in own.tolist()})


def test_query_is_not_its_own_match():
    one = torch.tensor([[0.0], [5.0]])
    own = np.array([[0, 0], [1, 1]])
    with pytest.raises(DataError, match=r"no query has a match.* 2 of 2 queries are gallery images, too, and an image is not"):
        evaluate(one, one, [1, 2], [1, 2], protocol=NoCameraFilter(), own=own)
    assert evaluate(one, one, [1, 2], [1, 2], protocol=NoCameraFilter()).mAP == 1


def test_ids_beyond_int64_are_refused():
    features = torch.eye(2)
    big = np.array([2**64 - 1, 3], np.uint64)
    for ids in (big, torch.tensor([2**63 - 1, 3]).to(torch.uint64).numpy() + np.uint64(1)):
        with pytest.raises(DataError, match=r"query_ids holds (18446744073709551615|9223372036854775808), .* Number them"):
            evaluate(features, features, ids, [3, 4], protocol=NoCameraFilter())
    with pytest.raises(DataError, match="gallery_cams holds 18446744073709551615"):
        evaluate(features, features, [3, 4], [3, 4], [0, 0], big)
    small = np.array([3, 2**63 - 1], np.uint64)
    assert evaluate(features, features, small, small, protocol=NoCameraFilter()).valid_queries == 2
