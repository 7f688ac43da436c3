"""Every registered protocol against plain loops over sorted rankings with ties, junk, distractors and missing matches."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.contracts import Trial
from reidx.errors import DataError
from reidx.evaluation import evaluate, rerank
from reidx.registry.build import build
from reidx.registry.discovery import registry

QUERIES, IMAGES = 8, 40


class Image(NamedTuple):
    """An image as the loops see it."""

    place: int
    feature: tuple[float, ...]
    id: int
    camera: int
    clothes: int


Ranking = list[Image]
"""The gallery images that count for a query, nearest first."""


class Derivation(NamedTuple):
    """A protocol in loops: examples of its arguments, the images that count, its metrics, and the galleries of its trials."""

    examples: list[dict[str, Any]]
    counts: Callable[..., bool]
    metrics: Callable[..., dict[str, float]] = lambda queries, rankings, gallery, **arguments: {}
    galleries: Callable[..., list[list[int]]] | None = None
    """By default those that the protocol draws, whose draws have separate tests."""


# ---- the images that count for a query


def counts_under_another_camera(query: Image, image: Image, camera_filter: bool = True, **_: Any) -> bool:
    return image.id != -1 and not (camera_filter and image.id == query.id and image.camera == query.camera)


def counts_always(query: Image, image: Image) -> bool:
    return image.id != -1


def counts_in_other_clothes(query: Image, image: Image, **_: Any) -> bool:
    other = query.clothes != image.clothes and -1 not in (query.clothes, image.clothes)
    return counts_under_another_camera(query, image) and (image.id != query.id or other)


def counts_in_the_same_clothes(query: Image, image: Image, **_: Any) -> bool:
    same = query.clothes == image.clothes != -1
    return counts_under_another_camera(query, image) and (image.id != query.id or same)


def counts_at_another_place(query: Image, image: Image, **_: Any) -> bool:
    return image.id != -1 and (query.camera, image.camera) != (2, 1)


# ---- metrics


def places_of_matches(query: Image, ranking: Ranking) -> list[int]:
    return [rank for rank, image in enumerate(ranking, 1) if image.id == query.id]


def standard_metrics(queries: list[Image], rankings: list[Ranking]) -> dict[str, float]:
    """Return mAP, mINP and rank-k over the queries with a match; empty if there is none."""
    hits = [found for found in map(places_of_matches, queries, rankings) if found]
    if not hits:
        return {}
    values = {
        "mAP": fmean(fmean((n + 1) / rank for n, rank in enumerate(ranks)) for ranks in hits),
        "mINP": fmean(len(ranks) / ranks[-1] for ranks in hits),
    }
    return values | {f"rank-{k}": fmean(float(ranks[0] <= k) for ranks in hits) for k in (1, 5, 10)}


def trapezoid_metrics(queries: list[Image], rankings: list[Ranking], gallery: list[Image]) -> dict[str, float]:
    """Return the area under each precision-recall curve, image by image as the MATLAB code adds it up."""
    areas = []
    for query, ranking in zip(queries, rankings):
        matches, area, old_recall, old_precision, found = len(places_of_matches(query, ranking)), 0.0, 0.0, 1.0, 0
        for rank, image in enumerate(ranking, 1):
            if found == matches:
                break
            found += image.id == query.id
            recall, precision = found / matches, found / rank
            area += (recall - old_recall) * (old_precision + precision) / 2
            old_recall, old_precision = recall, precision
        areas.append(area)
    return {"trapezoid_mAP": fmean(areas)}


def metrics_over_people(queries: list[Image], rankings: list[Ranking], gallery: list[Image], **_: Any) -> dict[str, float]:
    """Return rank-k where each person counts once."""
    firsts = []
    for query, ranking in zip(queries, rankings):
        people = list(dict.fromkeys(image.id for image in ranking))
        if query.id in people:
            firsts.append(people.index(query.id) + 1)
    return {f"rank-{k}": fmean(float(first <= k) for first in firsts) for k in (1, 5, 10, 20)}


def squared_distance(query: Image, image: Image) -> float:
    return sum((a - b) ** 2 for a, b in zip(query.feature, image.feature))


def open_set_metrics(queries: list[Image], rankings: list[Ranking], gallery: list[Image], **_: Any) -> dict[str, float]:
    """Return DIR at each FAR, where each distance of an unmated query is tried as the threshold."""
    unmated, mated = [], []
    for query, ranking in zip(queries, rankings):
        if query.id not in [image.id for image in gallery]:
            unmated.append(squared_distance(query, ranking[0]))
        elif places_of_matches(query, ranking):
            mated.append((squared_distance(query, ranking[0]), ranking[0].id == query.id))
    found = {}
    for rate in (0.001, 0.01, 0.1):
        allowed = [tried for tried in unmated if sum(other < tried for other in unmated) <= rate * len(unmated)]
        found[f"DIR@{rate:g}"] = fmean(float(correct and distance < max(allowed)) for distance, correct in mated)
    return found


def verification_metrics(queries: list[Image], rankings: list[Ranking], gallery: list[Image], **_: Any) -> dict[str, float]:
    """Return TPR at each FPR, where each distance of a pair of two people is tried as the threshold, and the AUC by pairs."""
    one, two = [], []
    for query, ranking in zip(queries, rankings):
        for image in ranking:
            (one if image.id == query.id else two).append(squared_distance(query, image))
    found = {}
    for rate in (0.0001, 0.001, 0.01):
        allowed = [tried for tried in two if sum(other < tried for other in two) <= rate * len(two)]
        found[f"TPR@{rate:g}"] = fmean(float(distance < max(allowed)) for distance in one)
    return found | {"AUC": fmean((a < b) + (a == b) / 2 for a in one for b in two)}


# ---- galleries


def drawn_from_visible_cameras(gallery: list[Image], search: str = "all", shots: str = "single", trials: int = 10):
    """Return galleries as released code draws them, with the global random state."""
    state, galleries = random.getstate(), []
    for trial in range(trials):
        random.seed(trial)
        drawn: list[int] = []
        for who in sorted({image.id for image in gallery} - {-1}):
            for camera in (0, 1, 3, 4) if search == "all" else (0, 1):
                files = [image.place for image in gallery if (image.id, image.camera) == (who, camera)]
                if files:
                    drawn += [random.choice(files)] if shots == "single" else random.sample(files, min(10, len(files)))
        galleries.append(drawn)
    random.setstate(state)
    return galleries


DERIVATIONS = {
    "Market1501": Derivation([{}], counts_under_another_camera),
    "Market1501Trapezoid": Derivation([{}], counts_under_another_camera, trapezoid_metrics),
    "NoCameraFilter": Derivation([{}], counts_always),
    "SingleGalleryShot": Derivation(
        [{"trials": 3, "seed": 5}, {"trials": 2, "camera_filter": False}], counts_under_another_camera
    ),
    "ClothChanging": Derivation([{}, {"trials": 3, "seed": 1}], counts_in_other_clothes),
    "SameClothes": Derivation([{}, {"trials": 3, "seed": 1}], counts_in_the_same_clothes),
    "OpenSet": Derivation(
        [{"trials": 3, "seed": 2}, {"trials": 2, "held_out": 0.25, "camera_filter": False}, {"held_out": 0.0}],
        counts_under_another_camera,
        open_set_metrics,
    ),
    "Verification": Derivation([{}, {"camera_filter": False}], counts_under_another_camera, verification_metrics),
    "SYSUMM01": Derivation(
        [{"trials": 3}, {"trials": 2, "search": "indoor"}, {"trials": 2, "shots": "multi"}],
        counts_at_another_place,
        metrics_over_people,
        drawn_from_visible_cameras,
    ),
}


def made(seed: int) -> tuple[list[Image], list[Image]]:
    """Return queries and gallery on a grid, with ties, junk (−1), distractors (7, 8) and queries without a match (5, 6)."""
    draw = random.Random(seed)

    def images(count: int, people: tuple[int, ...]) -> list[Image]:
        return [
            Image(n, (draw.randrange(3), draw.randrange(3)), draw.choice(people), draw.randrange(6), draw.randrange(-1, 2))
            for n in range(count)
        ]

    queries, gallery = images(QUERIES, (0, 1, 2, 3, 5, 6)), images(IMAGES, (-1, 0, 1, 2, 3, 4, 7, 8))
    queries[:3] = [image._replace(id=who) for image, who in zip(queries, (0, 1, 6))]
    gallery[:2] = [image._replace(id=who) for image, who in zip(gallery, (0, 1))]
    return queries, gallery


def derived(name: str, arguments: dict[str, Any], queries: list[Image], galleries: list[list[Image]]):
    """Return each metric as the mean over the galleries, and the number of queries with a match; None without any match."""
    derivation, found, valid = DERIVATIONS[name], [], []
    for gallery in galleries:
        rankings = []
        for query in queries:
            near = sorted(gallery, key=lambda image: (squared_distance(query, image), image.place))
            rankings.append([image for image in near if derivation.counts(query, image, **arguments)])
        if not (metrics := standard_metrics(queries, rankings)):
            return None
        found.append(metrics | derivation.metrics(queries, rankings, gallery, **arguments))
        valid.append(sum(bool(places_of_matches(*pair)) for pair in zip(queries, rankings)))
    return {key: fmean(metrics[key] for metrics in found) for key in found[0]}, fmean(valid)


CASES = [(name, arguments) for name, derivation in DERIVATIONS.items() for arguments in derivation.examples]


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[f"{name}-{'-'.join(map(str, a.values()))}" for name, a in CASES])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_protocol_equals_its_derivation(name, arguments, seed):
    queries, gallery = made(seed)
    rule = build("protocol", {"type": name, **arguments})
    sides = [[np.array([getattr(image, key) for image in side]) for side in (queries, gallery)] for key in Image._fields]
    features, columns = [torch.from_numpy(side).float() for side in sides[1]], [{"clothes": side} for side in sides[4]]
    known = (*sides[2], *sides[3])
    if (draw := DERIVATIONS[name].galleries) is not None:
        places = draw(gallery, **arguments)
    else:
        trials = rule.draw_trials(*known)
        places = [range(IMAGES)] if trials is None else [trial.gallery.tolist() for trial in trials]
    expected = derived(name, arguments, queries, [[gallery[g] for g in those] for those in places])
    if expected is None:
        with pytest.raises(DataError, match="no query has a match"):
            evaluate(*features, *known, rule, columns=columns)
        return
    result = evaluate(*features, *known, rule, columns=columns)
    assert result.metrics == pytest.approx(expected[0], abs=1e-12)
    assert result.valid_queries == pytest.approx(expected[1])


@pytest.mark.parametrize("reranker", ["AverageQueryExpansion", "AlphaQueryExpansion", "KReciprocal"])
@pytest.mark.parametrize("name", list(DERIVATIONS))
def test_every_protocol_can_be_reranked(name, reranker):
    queries, gallery = made(4)
    features = torch.randn(QUERIES + IMAGES, 3, generator=torch.Generator().manual_seed(0)).split([QUERIES, IMAGES])
    known = [np.array([getattr(image, key) for image in side]) for key in ("id", "camera") for side in (queries, gallery)]
    columns = [{"clothes": np.array([image.clothes for image in side])} for side in (queries, gallery)]
    part = build("reranker", reranker)

    def reranked(*places):
        return rerank(part, *features, trial=Trial(*places))

    result = evaluate(*features, *known, build("protocol", name), columns=columns, reranking=reranked)
    plain = evaluate(*features, *known, build("protocol", name), columns=columns)
    assert result.card["reranking"]["method"] and plain.card["reranking"] is None
    assert result.metrics.keys() == plain.metrics.keys() and result.metrics != plain.metrics


DERIVED_ELSEWHERE = {"Grouped": "test_groups.py"}
"""Protocols whose rankings have no images as entries, with the test that derives them."""


def test_every_protocol_has_a_derivation():
    assert {entry.name for entry in registry().entries("protocol")} == {*DERIVATIONS, *DERIVED_ELSEWHERE}
    assert all((Path(__file__).parent / file).is_file() for file in DERIVED_ELSEWHERE.values())


def test_standard_names_keep_their_formulas():
    """mAP and mINP have one meaning in all protocols; a variant has another name."""
    for entry in registry().entries("protocol"):
        assert not {"mAP", "mINP"} & set(getattr(entry.load(), "metrics", ())), entry.name


def test_three_variants_have_three_names():
    """Ranking: another person, the match in the query's camera, a match, another person, a match."""
    query, gallery = torch.zeros(1, 1), torch.arange(1.0, 6.0)[:, None]
    known = [7], [8, 7, 7, 8, 7], [0], [1, 0, 1, 1, 1]
    found = {name: evaluate(query, gallery, *known, build("protocol", name)) for name in DERIVATIONS if name in VARIANTS}
    names = {name: f"{found[name].card['protocol']} {metric}" for name, (metric, _) in VARIANTS.items()}
    assert len(set(names.values())) == 3 and found["Market1501Trapezoid"].mAP == found["Market1501"].mAP
    for name, (metric, value) in VARIANTS.items():
        assert found[name].metrics[metric] == pytest.approx(value), name
    over = found["Market1501Trapezoid"].card
    assert over["protocol_denominators"] == {"trapezoid_mAP": "all queries, 0 for one without a match"}
    assert over["denominator"] == "queries with at least one match"


VARIANTS = {
    "Market1501": ("mAP", (1 / 2 + 2 / 4) / 2),
    "Market1501Trapezoid": ("trapezoid_mAP", ((1 / 2 + 0 / 1) / 2 + (2 / 4 + 1 / 3) / 2) / 2),
    "NoCameraFilter": ("mAP", (1 / 2 + 2 / 3 + 3 / 5) / 3),
}
"""The metric of each variant, and its value for the ranking of the test."""


def test_denominators_on_the_card():
    """One of two queries has no match, and AP 0 in the trapezoid variant alone."""
    features = torch.zeros(2, 1), torch.tensor([[1.0], [2.0]])
    result = evaluate(*features, [7, 9], [7, 8], [0, 0], [1, 1], build("protocol", "Market1501Trapezoid"))
    assert (result.mAP, result.metrics["trapezoid_mAP"]) == (1, 0.5)
    assert (result.card["queries"], result.card["valid_queries"]) == (2, 1)
    by_people = evaluate(*features, [7, 9], [7, 8], [2, 2], [0, 0], build("protocol", {"type": "SYSUMM01", "trials": 2}))
    assert set(by_people.card["protocol_denominators"].values()) == {"queries with at least one match"}
