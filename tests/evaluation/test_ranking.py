"""evaluate() against a sorting loop and numbers worked out by hand, and its error messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.errors import ConfigError, DataError
from reidx.evaluation import Market1501, NoCameraFilter, Protocol, evaluate


def naive(query, gallery, q_ids, g_ids, q_cams, g_cams, camera_filter=True):
    """Sort the whole gallery for each query and walk down the ranking."""
    aps, inps, firsts = [], [], []
    for q in range(len(query)):
        distances = (
            ((query[q].astype(np.float64) - gallery.astype(np.float64)) ** 2).sum(axis=1).astype(np.float32)
        )
        hits, seen = [], 0
        for g in np.argsort(distances, kind="stable"):
            if g_ids[g] == -1 or (camera_filter and g_ids[g] == q_ids[q] and g_cams[g] == q_cams[q]):
                continue
            seen += 1
            if g_ids[g] == q_ids[q]:
                hits.append(seen)
        if hits:
            aps.append(sum((n + 1) / rank for n, rank in enumerate(hits)) / len(hits))
            inps.append(len(hits) / hits[-1])
            firsts.append(hits[0])
    if not aps:
        return 0, 0, [], 0
    cmc = [np.mean([first <= rank for first in firsts]) for rank in range(1, 51)]
    return np.mean(aps), np.mean(inps), cmc, len(aps)


def line(*positions):
    """Return features on a line: the distance to a query at 0 is the position itself."""
    return torch.tensor(positions, dtype=torch.float32)[:, None]


def test_numbers_worked_out_by_hand():
    # Ranked gallery of the only query (id 1, camera 0): 2, [1 same camera: ignored], 1, 3, [junk], 1
    result = evaluate(
        line(0),
        line(1, 2, 3, 4, 5, 6),
        [1],
        [2, 1, 1, 3, -1, 1],
        [0],
        [0, 0, 1, 1, 1, 1],
        details=True,
        top=3,
    )
    # Kept: 2 (rank 1), 1 (rank 2), 3 (rank 3), 1 (rank 4): AP = (1/2 + 2/4) / 2, mINP = 2 / 4, first match at 2.
    assert result.mAP == pytest.approx(0.5)
    assert result.mINP == pytest.approx(0.5)
    assert result.cmc[:3].tolist() == [0, 1, 1]
    assert result.valid_queries == 1
    assert result.details.top.tolist() == [[0, 2, 3]]
    assert result.card["protocol"] == "market1501" and result.card["gallery_junk"] == 1
    unfiltered = evaluate(
        line(0), line(1, 2, 3, 4, 5, 6), [1], [2, 1, 1, 3, -1, 1], protocol=NoCameraFilter()
    )
    assert unfiltered.mAP == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)


def test_query_without_match_does_not_count():
    result = evaluate(line(0, 0), line(1, 2), [1, 9], [1, 2], [0, 0], [1, 1], details=True)
    assert result.valid_queries == 1
    assert result.mAP == 1
    assert result.card["queries"] == 2
    assert np.isnan(result.details.ap[1]) and result.details.first_match.tolist() == [1, 0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 60), st.integers(1, 9)),
    kind=st.sampled_from(["gaussian", "unit", "grid", "equal", "pairs"]),
    camera_filter=st.booleans(),
)
def test_equals_the_loop(seed, shape, kind, camera_filter):
    queries, images, width = shape
    random = np.random.default_rng(seed)
    both = random.normal(size=(queries + images, width)).astype(np.float32)
    if kind == "unit":
        both /= np.linalg.norm(both, axis=1, keepdims=True)
    elif kind == "grid":  # many exact ties
        both = random.integers(0, 2, size=both.shape).astype(np.float32)
    elif kind == "equal":
        both[:] = both[0]
    elif kind == "pairs":  # equal rows at different positions
        both = both[random.integers(0, max(1, len(both) // 3), size=len(both))]
    ids, cams = random.integers(-1, 5, size=len(both)), random.integers(0, 3, size=len(both))
    given_ = (both[:queries], both[queries:], ids[:queries], ids[queries:], cams[:queries], cams[queries:])
    protocol = Market1501() if camera_filter else NoCameraFilter()
    try:
        result = evaluate(*given_, protocol=protocol, details=True, top=5)
    except DataError:
        assert naive(*given_, camera_filter=camera_filter)[3] == 0
        return
    mAP, mINP, cmc, valid = naive(*given_, camera_filter=camera_filter)
    assert result.mAP == pytest.approx(mAP, abs=1e-12)
    assert result.mINP == pytest.approx(mINP, abs=1e-12)
    assert np.allclose(result.cmc, cmc)
    assert result.valid_queries == valid
    for q, row in enumerate(result.details.top):
        distances = ((both[q].astype(np.float64) - both[queries:]) ** 2).sum(axis=1).astype(np.float32)
        kept = [
            g
            for g in np.argsort(distances, kind="stable")
            if ids[queries + g] != -1
            and not (camera_filter and ids[queries + g] == ids[q] and cams[queries + g] == cams[q])
        ]
        assert row[row >= 0].tolist() == kept[:5]


def test_agrees_with_average_precision_of_scikit_learn():
    from sklearn.metrics import average_precision_score

    random = np.random.default_rng(0)
    query, gallery = random.normal(size=(40, 16)), random.normal(size=(300, 16))
    q_ids, g_ids = random.integers(0, 20, 40), np.concatenate([np.arange(20), random.integers(0, 20, 280)])
    result = evaluate(query, gallery, q_ids, g_ids, protocol=NoCameraFilter())
    scores = [
        average_precision_score(g_ids == q_ids[q], -((query[q] - gallery) ** 2).sum(axis=1))
        for q in range(40)
    ]
    assert result.mAP == pytest.approx(np.mean(scores), abs=1e-9)


def test_blocks_and_metric_do_not_matter(monkeypatch):
    random = np.random.default_rng(1)
    features = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(130, 8))).float(), dim=1)
    ids, cams = random.integers(0, 9, 130), random.integers(0, 3, 130)
    arguments = (features[:40], features[40:], ids[:40], ids[40:], cams[:40], cams[40:])
    whole = evaluate(*arguments)
    monkeypatch.setattr("reidx.evaluation.ranking._BLOCK_BYTES", 4 * 90 * 17)
    assert evaluate(*arguments).mAP == whole.mAP
    scaled = (features[:40] * 3, features[40:] * torch.linspace(1, 2, 90)[:, None], *arguments[2:])
    assert evaluate(*scaled, metric="cosine").mAP == pytest.approx(whole.mAP, abs=1e-6)
    assert abs(evaluate(*scaled).mAP - whole.mAP) > 1e-3


@pytest.mark.parametrize("size", [1e-15, 1e-19, 1e-21, 1e13])
@pytest.mark.parametrize("kinds", [1, 60])
def test_ranks_are_exact_at_extreme_scales(size, kinds):
    random = np.random.default_rng(0)
    for width in (2, 16):
        x = (size * random.normal(size=(kinds, width))[random.integers(0, kinds, 80)]).astype(np.float32)
        query, gallery, q_ids, g_ids = x[:20], x[20:], random.integers(0, 12, 20), random.integers(0, 12, 60)
        with torch.autocast("cpu", torch.bfloat16):
            found = evaluate(query, gallery, q_ids, g_ids, protocol=NoCameraFilter(), details=True, top=60).details
        squared = ((query[:, None].astype(np.float64) - gallery) ** 2).sum(axis=2).astype(np.float32)
        order = squared.argsort(axis=1, kind="stable")
        right = g_ids[order] == q_ids[:, None]
        assert np.array_equal(found.top, order)
        assert np.array_equal(found.first_match, np.where(right.any(axis=1), right.argmax(axis=1) + 1, 0))


def test_custom_protocol():
    class FirstCameraOnly(Protocol):
        def ignored(self, query_ids, gallery_ids, query_cams, gallery_cams):
            return np.broadcast_to(gallery_cams != 0, (len(query_ids), len(gallery_ids)))

    rule = FirstCameraOnly("first_camera", "1", camera_filter=False)
    result = evaluate(line(0), line(1, 2, 3), [1], [1, 2, 1], [5], [1, 0, 0], protocol=rule)
    assert result.mAP == 0.5 and result.card["protocol"] == "first_camera"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g_ids": [7, 8]}, "renumbered separately"),
        ({"q_cams": [0], "g_cams": [0, 0]}, "evaluate.protocol: NoCameraFilter"),
        ({"q_cams": [-1], "g_cams": [-1, -1]}, "evaluate.protocol: NoCameraFilter"),
        ({"q_cams": None}, "query_cams is None"),
        ({"q_cams": [None]}, "query_cams is None"),
        ({"g_ids": [1]}, "gallery_ids must be 2 integers"),
        ({"q_ids": [0.5]}, "query_ids must be 1 integers"),
        ({"gallery": torch.tensor([[1.0], [float("nan")]])}, "gallery features: 1 of 2 rows hold NaN"),
        ({"gallery": torch.ones(2, 3)}, "query features have 1 columns"),
    ],
)
def test_bad_input_is_refused(change, message):
    given_ = {
        "query": line(0),
        "gallery": line(1, 2),
        "q_ids": [1],
        "g_ids": [1, 2],
        "q_cams": [0],
        "g_cams": [1, 1],
    }
    with pytest.raises(DataError, match=message):
        evaluate(*{**given_, **change}.values())


def test_an_unknown_metric_is_refused():
    with pytest.raises(ConfigError, match="euclidean, cosine"):
        evaluate(line(0), line(1), [1], [1], [0], [1], metric="l2")
