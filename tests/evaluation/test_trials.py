"""Trials and metrics of protocols, against loops over sorted rankings and values worked out by hand."""

from __future__ import annotations

import random
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.contracts import Trial
from reidx.errors import ConfigError, DataError
from reidx.evaluation import KReciprocal, Market1501, Protocol, SingleGalleryShot, evaluate, rerank
from reidx.evaluation.protocols import drawn_trials, in_trial

QUERIES, IMAGES, TRIALS = 9, 40, 3


class Drawn(Protocol):
    """Market-1501's rule in trials of some queries and gallery images, in any order; AP and CMC over distinct identities."""

    metrics = ("rank-1", "rank-2", "AP")

    def __init__(self, seed: int = 0, trials: int = TRIALS) -> None:
        super().__init__("drawn", "1", camera_filter=True, settings={"seed": seed})
        self.trials = trials

    def draw_trials(self, query_ids, gallery_ids, query_cams, gallery_cams, *, gallery_clothes):
        generator = np.random.default_rng(self.settings["seed"])
        for _ in range(self.trials):
            images = generator.permutation(np.flatnonzero(gallery_clothes == 0))
            yield Trial(generator.permutation(len(query_ids))[:6], images[: len(images) * 3 // 4 + 1])

    def measure(self, distances, ignored, query_ids, gallery_ids, query_cams, gallery_cams, *, query_clothes):
        assert distances.dtype == np.float64 and len(query_clothes) == len(query_ids) == len(distances)
        first, ap = np.full((2, len(query_ids)), np.nan)
        for q, order in enumerate(np.argsort(distances, axis=1, kind="stable")):
            people = gallery_ids[order[~ignored[q, order]]]
            distinct = list(dict.fromkeys(people.tolist()))
            if query_ids[q] in distinct:
                first[q] = distinct.index(query_ids[q])
                ranks = np.flatnonzero(people == query_ids[q]) + 1
                ap[q] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
        return {"rank-1": np.where(np.isnan(first), np.nan, first < 1), "rank-2": np.where(np.isnan(first), np.nan, first < 2),
                "AP": ap}  # fmt: skip


def made(seed: int):
    """Return features with ties, (ids, cameras) with junk, pairs of one image, and columns."""
    generator = np.random.default_rng(seed)
    features = torch.from_numpy(generator.integers(0, 3, (QUERIES + IMAGES, 3)).astype(np.float32))
    ids, cams, clothes = (generator.integers(low, high, QUERIES + IMAGES) for low, high in ((-1, 5), (0, 3), (0, 2)))
    own = np.unique(np.stack([generator.integers(0, QUERIES, 12), generator.integers(0, IMAGES, 12)], 1), axis=0)
    known = ids[:QUERIES], ids[QUERIES:], cams[:QUERIES], cams[QUERIES:]
    columns = {"clothes": clothes[:QUERIES]}, {"clothes": clothes[QUERIES:]}
    return (features[:QUERIES], features[QUERIES:]), known, own, columns


def loop(query, gallery, known, own, trial: Trial):
    """Return the metrics, the counting queries and the rankings of a trial by a walk down each sorted ranking."""
    (q_ids, g_ids, q_cams, g_cams), pairs = known, set(map(tuple, own.tolist()))
    found: dict[str, list[float]] = {name: [] for name in ("mAP", "mINP", "rank-1", "rank-2", "rank-5", "rank-10", "cmc-1")}
    rankings = {}
    for q in trial.queries.tolist():
        near = sorted((float(((query[q].double() - gallery[g].double()) ** 2).sum()), g) for g in trial.gallery.tolist())
        kept = [
            g for _, g in near
            if g_ids[g] != -1 and not (g_ids[g] == q_ids[q] and g_cams[g] == q_cams[q]) and (q, g) not in pairs
        ]  # fmt: skip
        rankings[q] = kept
        hits = [rank for rank, g in enumerate(kept, 1) if g_ids[g] == q_ids[q]]
        if not hits:
            continue
        people: list[int] = []
        for g in kept:
            if g_ids[g] not in people:
                people.append(g_ids[g])
        place = people.index(q_ids[q]) + 1
        found["mAP"].append(sum((n + 1) / rank for n, rank in enumerate(hits)) / len(hits))
        found["mINP"].append(len(hits) / hits[-1])
        for name, value in {"rank-1": place <= 1, "rank-2": place <= 2, "rank-5": hits[0] <= 5, "rank-10": hits[0] <= 10,
                            "cmc-1": hits[0] <= 1}.items():  # fmt: skip
            found[name].append(float(value))
    return {name: fmean(values) for name, values in found.items() if values}, len(found["mAP"]), rankings


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_trials_equal_the_loop(seed):
    (query, gallery), known, own, columns = made(seed)
    rule = Drawn(seed)
    trials = [Trial(*trial) for trial in rule.draw_trials(*known, gallery_clothes=columns[1]["clothes"])]
    expected = [loop(query, gallery, known, own, trial) for trial in trials]
    if not all(valid for _, valid, _ in expected):
        number = [bool(valid) for _, valid, _ in expected].index(False) + 1
        with pytest.raises(DataError, match=rf"no query has a match.* This is trial {number} of {TRIALS}\."):
            evaluate(query, gallery, *known, rule, own=own, columns=columns)
        return
    result = evaluate(query, gallery, *known, rule, own=own, columns=columns, details=True, top=IMAGES)
    for name in ("mAP", "mINP", "rank-1", "rank-2", "rank-5", "rank-10"):
        values = [metrics[name] for metrics, _, _ in expected]
        assert result.metrics[name] == pytest.approx(fmean(values), abs=1e-12), name
        assert result.deviations[name] == pytest.approx(stdev(values), abs=1e-12), name
    assert result.metrics["AP"] == pytest.approx(result.mAP, abs=1e-12), "own distances rank as the standard metrics do"
    assert result.cmc[0] == pytest.approx(fmean(metrics["cmc-1"] for metrics, _, _ in expected))
    assert result.valid_queries == pytest.approx(fmean(valid for _, valid, _ in expected))
    assert result.card["trials"] == TRIALS and result.card["protocol_metrics"] == ["rank-1", "rank-2", "AP"]
    assert result.card["gallery"] == len(trials[0].gallery) and result.card["queries"] == 6
    for one, trial, (_, valid, rankings) in zip(result.trials, trials, expected):
        top = [[g for g in row if g >= 0] for row in one.details.top.tolist()]
        assert top == [rankings.get(q, []) for q in range(QUERIES)]
        assert (~np.isnan(one.details.ap)).sum() == valid == one.valid_queries
        inside = {(q, g) for q, g in own.tolist() if q in trial.queries and g in trial.gallery}
        assert one.card["queries_in_gallery"] == len({q for q, _ in inside})
    assert result.details is result.trials[0].details


class Whole(Market1501):
    """Market-1501's protocol as one trial of everything, in reverse order."""

    def draw_trials(self, query_ids, gallery_ids, query_cams, gallery_cams):
        return [(np.arange(len(query_ids))[::-1], np.arange(len(gallery_ids))[::-1])]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), reranked=st.booleans())
def test_one_trial_of_everything_changes_nothing(seed, reranked):
    features, known, own, columns = made(seed)
    plain, trial = (
        evaluate(
            *features, *known, rule, own=own, columns=columns, details=True,
            reranking=(lambda q, g: rerank(KReciprocal(5, 2), features[0][q], features[1][g])) if reranked else None,
        )
        for rule in (Market1501(), Whole())
    )  # fmt: skip
    assert plain.metrics == trial.metrics and plain.card == trial.card and plain.cmc.tolist() == trial.cmc.tolist()
    assert np.array_equal(plain.details.ap, trial.details.ap, equal_nan=True)
    assert np.array_equal(plain.details.top, trial.details.top)
    assert plain.deviations == trial.deviations == {} and len(trial.trials) == 1 and plain.trials == ()
    given_ = rerank(KReciprocal(5, 2), *features) if reranked else None
    assert evaluate(*features, *known, own=own, reranking=given_).metrics == plain.metrics


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_each_trial_is_reranked_by_itself(seed):
    (query, gallery), known, own, columns = made(seed)
    rule = Drawn(seed, trials=2)

    def reranking(queries, images):
        return rerank(KReciprocal(5, 2), query[queries], gallery[images])

    with pytest.raises(ConfigError, match=r"protocol drawn draws trials.* give a function that re-ranks one"):
        evaluate(query, gallery, *known, rule, columns=columns, reranking=rerank(KReciprocal(5, 2), query, gallery))
    try:
        result = evaluate(query, gallery, *known, rule, own=own, columns=columns, reranking=reranking)
    except DataError:
        return
    values = []
    for trial in drawn_trials(rule, known, columns):
        inner, pairs, _ = in_trial(trial, known, own, columns)
        x, y = query[trial.queries], gallery[trial.gallery]
        values.append(evaluate(x, y, *inner, own=pairs, reranking=rerank(KReciprocal(5, 2), x, y)).mAP)
    assert result.mAP == fmean(values)
    assert result.metrics["AP"] == pytest.approx(result.mAP, abs=1e-12), "own metrics get the re-ranked distances"


def test_mean_and_deviation_worked_out_by_hand():
    class TwoGalleries(Protocol):
        def draw_trials(self, query_ids, gallery_ids, query_cams, gallery_cams):
            yield np.array([0]), np.array([1, 2])  # person 2, then 1: AP 1/2
            yield np.array([0, 1]), np.array([0, 3])  # person 1 first, and no match of query 1: AP 1

    features = torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    rule = TwoGalleries("two", "1", camera_filter=False)
    result = evaluate(*features, [1, 8], [1, 2, 1, 3], protocol=rule, details=True, top=2)
    assert (result.mAP, result.metrics["rank-1"]) == (0.75, 0.5)
    assert result.deviations["mAP"] == pytest.approx(0.125**0.5) and result.deviations["rank-1"] == pytest.approx(0.5**0.5)
    assert result.details.top.tolist() == [[1, 2], [-1, -1]] and result.details.first_match.tolist() == [2, 0]
    assert (result.card["queries"], result.card["valid_queries"], result.card["queries_without_match"]) == (1.5, 1, 0.5)


def test_metric_without_counting_queries_is_refused():
    class Nothing(Protocol):
        metrics = ("mAP",)

        def measure(self, distances, ignored, *sides):
            return {"mAP": np.full(len(distances), np.nan)}

    with pytest.raises(DataError, match="no query counts for mAP of protocol none: it is NaN for all 2"):
        evaluate(torch.zeros(2, 1), torch.zeros(2, 1), [1, 2], [1, 2], protocol=Nothing("none", "1", camera_filter=False))


# ---- the classic protocol of CUHK03


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_single_shot_draws_one_image_of_each_person(seed):
    _, known, _, columns = made(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    trials, again, other = (drawn_trials(SingleGalleryShot(seed=s), known, columns) for s in (seed, seed, seed + 1))
    assert len(trials) == 10
    for trial in trials:
        assert trial.queries.tolist() == list(range(QUERIES))
        assert sorted(known[1][trial.gallery]) == sorted(set(known[1].tolist()) - {-1})
    drawn = [[trial.gallery.tolist() for trial in each] for each in (trials, again, other)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(map(tuple, drawn[0]))) > 1


def test_single_shot_draws_images_equally_often():
    gallery = np.array([3, 1, 3, -1, 3])
    known = np.array([3]), gallery, np.array([0]), np.zeros(5, np.int64)
    drawn = np.concatenate([trial.gallery for trial in drawn_trials(SingleGalleryShot(trials=3000), known)])
    assert np.bincount(drawn, minlength=5) / 3000 == pytest.approx([1 / 3, 1, 1 / 3, 0, 1 / 3], abs=0.04)


def test_single_shot_worked_out_by_hand():
    # Two people with one image each, at 1 and 2: queries at 0 find person 1 first, whatever is drawn.
    features = torch.zeros(2, 1), torch.tensor([[1.0], [2.0], [0.0]])
    result = evaluate(*features, [1, 2], [1, 2, -1], [0, 0], [1, 1, 1], SingleGalleryShot(trials=2))
    assert result.metrics == {"mAP": 0.75, "mINP": 0.75, "rank-1": 0.5, "rank-5": 1, "rank-10": 1}
    assert set(result.deviations.values()) == {0}
    assert (result.card["gallery"], result.card["gallery_junk"], result.card["trials"]) == (2, 0, 2)
    assert result.card["protocol_settings"] == {"seed": 0, "rest": False}


@pytest.mark.parametrize(("arguments", "message"), [({"trials": 0}, "trials is 0; at least 1"), ({"seed": -1}, "seed is -1;")])
def test_single_shot_refuses_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        SingleGalleryShot(**arguments)


def test_protocol_that_draws_no_trial_is_refused():
    known = torch.zeros(1, 1), torch.zeros(1, 1), [7], [7], [0], [1]
    with pytest.raises(DataError, match="evaluate: protocol drawn drew no trial"):
        evaluate(*known, Drawn(trials=0), columns=({"clothes": [0]}, {"clothes": [0]}))
