"""Verification of pairs: rates by hand and in loops, thresholds that keep their promise, calibrated thresholds, messages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reidx
from reidx.errors import ConfigError, DataError
from reidx.evaluation import Verification, evaluate, rerank
from reidx.registry.build import build


def line(*positions):
    """Return features on a line, whose distance to a query at 0 is the square of the position."""
    return torch.tensor(positions, dtype=torch.float32)[:, None]


def test_rates_by_hand():
    """Pairs of one person at distances 1, 4 and 9, of two at 4 and 16; junk and the query's own camera do not count."""
    known = [7], [7, 7, 7, 8, 8, -1, 7], [0], [1, 1, 1, 0, 1, 1, 0]
    result = evaluate(line(0), line(1, 2, 3, 2, 4, 0, 0), *known, Verification())
    # No FPR allows one of two pairs: the threshold is 4, which accepts the pair at 1.
    assert [result.metrics[name] for name in Verification.metrics[:-1]] == [1 / 3] * 3
    assert result.metrics["AUC"] == pytest.approx((2 + 1.5 + 1) / 6)
    facts = result.card["protocol_facts"]
    assert (facts["pairs_of_one_person"], facts["pairs_of_two"], facts["threshold@0.01"]) == (3, 2, 4)
    assert json.loads(json.dumps(result.card)) == result.card and result.card["camera_filter"]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("blocks", [1, 5])
def test_thresholds_are_the_largest_of_fourteen_bits(scale, blocks, monkeypatch):
    """Against all pairs, sorted: a threshold keeps its rate, the next one does not, and accepts what the metric states."""
    monkeypatch.setattr("reidx.evaluation.ranking._BLOCK_BYTES", 4 * 400 * 100 // blocks)
    people = np.random.default_rng(0).integers(0, 20, 500)
    rows = scale * (torch.from_numpy(np.eye(20)[people]) + 0.35 * torch.randn(500, 20, generator=torch.manual_seed(1)))
    query, gallery = rows.float().split([100, 400])
    known = people[:100], people[100:], np.zeros(100, int), np.ones(400, int)
    result = evaluate(query, gallery, *known, Verification())
    pairs = ((query[:, None].double() - gallery[None].double()) ** 2).sum(dim=2).numpy()
    same = known[0][:, None] == known[1]
    for rate in (0.001, 0.01):
        threshold = result.card["protocol_facts"][f"threshold@{rate:g}"]
        following = threshold * (1 + 2.0**-13)
        assert (pairs[~same] < threshold * (1 - 1e-6)).mean() <= rate < (pairs[~same] < following).mean()
        assert result.metrics[f"TPR@{rate:g}"] == pytest.approx((pairs[same] < threshold).mean(), abs=1e-3)
    order = (pairs[same][:, None] < pairs[~same]).mean()
    assert result.metrics["AUC"] == pytest.approx(order, abs=1e-4) and 0.5 < order < 1


def test_pairs_of_one_kind_are_refused():
    with pytest.raises(DataError, match="1 pairs of one person and 0 of two count; both are needed"):
        evaluate(line(0), line(1), [7], [7], [0], [1], Verification())


def test_reranked_pairs_have_other_thresholds():
    features, known = (line(0, 10), line(1, 11, 3)), ([1, 2], [1, 2, 3], [0, 0], [1, 1, 1])
    reranked = rerank(build("reranker", {"type": "KReciprocal", "k1": 2, "k2": 1}), *features)
    plain, again = (evaluate(*features, *known, Verification(), reranking=how) for how in (None, reranked))
    assert plain.card["protocol_facts"]["threshold@0.01"] == 9
    assert 0 < again.card["protocol_facts"]["threshold@0.01"] <= 1


# ---- thresholds of labelled pairs


@settings(max_examples=80, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40),
    fpr=st.sampled_from([0, 0.01, 0.1, 0.29, 0.5, 0.99]),
)
def test_threshold_equals_a_search(pairs, fpr):
    same = [label for _, label in pairs]
    if all(same) or not any(same):
        return
    different = [distance for distance, label in pairs if not label]
    accepted = {tried: sum(distance < tried for distance in different) for tried in different}
    best = max(tried for tried, count in accepted.items() if count <= fpr * len(different) + 1e-9)
    found = reidx.calibrate_threshold([distance for distance, _ in pairs], same, fpr)
    assert found.distance == best and found.fpr == accepted[best] / len(different) <= fpr + 1e-9
    assert found.tpr == sum(distance < best for distance, label in pairs if label) / sum(same)


def test_threshold_by_hand():
    found = reidx.calibrate_threshold([0.2, 0.5, 0.95, 0.4, 0.9], [True, True, True, False, False], fpr=0.5)
    assert found == (0.9, 0.5, 2 / 3) and json.loads(json.dumps(found._asdict())) == found._asdict()


@pytest.mark.parametrize(
    ("distances", "same", "fpr", "message"),
    [
        ([0.1, 0.2], [True, True], 0.1, "give pairs of one person and pairs of different people"),
        ([0.1, 0.2], [True], 0.1, r"one number and one truth value per pair; got \(2,\) and bool \(1,\)"),
        ([0.1, 0.2], [1, 0], 0.1, "per pair; got .* and int64"),
        ([0.1, np.nan], [True, False], 0.1, "some distances are NaN or infinite"),
        ([0.1, 0.2], [True, False], 1, "fpr is 1; it must be at least 0 and less than 1"),
    ],
)
def test_wrong_pairs_are_refused(distances, same, fpr, message):
    with pytest.raises((DataError, ConfigError), match=message):
        reidx.calibrate_threshold(distances, same, fpr)
