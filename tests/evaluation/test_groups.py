"""Groups of images against an independent derivation from sorted lists, and values worked out by hand."""

from __future__ import annotations

from fractions import Fraction
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.contracts import Groups, Trial
from reidx.errors import ConfigError, DataError
from reidx.evaluation import Grouped, KReciprocal, Protocol, SingleGalleryShot, evaluate, rerank

SETTINGS = [(True, True, False), (True, False, False), (False, True, False), (False, True, True), (True, True, True)]
"""Groups of queries, groups of the gallery, and the nearest image of a gallery group."""


def made(seed: int, queries: int = 20, images: int = 45):
    """Return integer features with many ties, tracks in any order, ids with junk and cameras by track, pairs of one file."""
    random = np.random.default_rng(seed)
    features = torch.from_numpy(random.integers(0, 3, (queries + images, 2)).astype(np.float32))
    sides = []
    for count, tracks in ((queries, 7), (images, 16)):
        numbers = random.permutation(100)[:tracks]  # not 0 to n - 1, not sorted
        track = numbers[random.integers(0, tracks, count)]
        of = {int(n): (int(random.integers(-1, 4)), int(random.integers(0, 3))) for n in numbers}
        sides.append((*(np.array([of[int(n)][part] for n in track]) for part in (0, 1)), track.astype(np.int64)))
    (q_ids, q_cams, q_track), (g_ids, g_cams, g_track) = sides
    own = np.unique(np.stack([random.integers(0, queries, 6), random.integers(0, images, 6)], 1), axis=0)
    columns = {"track": q_track}, {"track": g_track}
    return (features[:queries], features[queries:]), (q_ids, g_ids, q_cams, g_cams), own, columns


def listed(track: np.ndarray, grouped: bool) -> list[list[int]]:
    """Return the images of each entry of a side, in the order of first images."""
    if not grouped:
        return [[image] for image in range(len(track))]
    found: dict[int, list[int]] = {}
    for image, number in enumerate(track.tolist()):
        found.setdefault(number, []).append(image)
    return list(found.values())


def middle(features, images: list[int]) -> list[float]:
    """Return the exact mean of some images, rounded to float32 as features are."""
    values = [[Fraction(float(value)) for value in features[image]] for image in images]
    return [float(np.float32(float(sum(column) / len(images)))) for column in zip(*values)]


def gap(a: list[float], b: list[float]) -> float:
    return float(np.float32(sum((x - y) ** 2 for x, y in zip(a, b))))


def derived(data, grouped, camera_filter: bool):
    """Return mAP, rank-1, mINP, the number of counting queries, and the ranking of images shown for each query image."""
    (query, gallery), (q_ids, g_ids, q_cams, g_cams), own, columns = data
    of_query, of_gallery, nearest = grouped
    asked, entries = listed(columns[0]["track"], of_query), listed(columns[1]["track"], of_gallery)
    same = {tuple(pair) for pair in own.tolist()}
    ap, inp, firsts, shown = [], [], [], {}
    for images in asked:
        x, q = middle(query, images), images[0]
        ranking = []
        for number, members in enumerate(entries):
            if nearest:
                distance, image = min((gap(x, gallery[g].tolist()), g) for g in members)
            else:
                distance, image = gap(x, middle(gallery, members)), members[0]
            g = members[0]
            alike = g_ids[g] == q_ids[q]
            if g_ids[g] == -1 or (camera_filter and alike and g_cams[g] == q_cams[q]):
                continue
            if any((i, j) in same for i in images for j in members):
                continue
            ranking.append((distance, number, image, bool(alike)))
        ranking.sort()
        shown[q] = [image for _, _, image, _ in ranking]
        hits = [rank for rank, (*_, alike) in enumerate(ranking, 1) if alike]
        if hits:
            ap.append(fmean((n + 1) / rank for n, rank in enumerate(hits)))
            inp.append(len(hits) / hits[-1])
            firsts.append(hits[0] == 1)
    return (fmean(ap), fmean(firsts), fmean(inp), len(ap), shown) if ap else (0, 0, 0, 0, shown)


def protocol_of(grouped, camera_filter: bool = True) -> Grouped:
    of_query, of_gallery, nearest = grouped
    return Grouped("track" if of_query else None, "track" if of_gallery else None, nearest, camera_filter)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**6), grouped=st.sampled_from(SETTINGS), camera_filter=st.booleans())
def test_groups_equal_sorted_lists(seed, grouped, camera_filter):
    data = made(seed)
    features, known, own, columns = data
    mAP, first, mINP, valid, shown = derived(data, grouped, camera_filter)
    rule = protocol_of(grouped, camera_filter)
    if not valid:
        with pytest.raises(DataError, match="no query has a match"):
            evaluate(*features, *known, rule, own=own, columns=columns)
        return
    result = evaluate(*features, *known, rule, own=own, columns=columns, details=True, top=45)
    assert result.mAP == pytest.approx(mAP, abs=1e-12) and result.mINP == pytest.approx(mINP, abs=1e-12)
    assert result.metrics["rank-1"] == pytest.approx(first, abs=1e-12) and result.valid_queries == valid
    assert {q: [g for g in row if g >= 0] for q, row in enumerate(result.details.top.tolist()) if q in shown} == shown
    others = sorted(set(range(20)) - set(shown))
    assert np.isnan(result.details.ap[others]).all() and (result.details.top[others] == -1).all()
    assert result.card["queries"] == len(shown)
    assert result.card["gallery"] == len(listed(columns[1]["track"], grouped[1]))


def line(*positions: float) -> torch.Tensor:
    return torch.tensor(positions)[:, None]


def test_nearest_and_mean_worked_out_by_hand():
    # The query is at 0. Track 5 (its person): images at 1 and 9, mean 5. Track 3 (another): images at 2 and 4, mean 3.
    given_ = line(0), line(1, 2, 4, 9), [1], [1, 2, 2, 1], [0], [1, 1, 1, 1]
    columns = {}, {"track": [5, 3, 3, 5]}
    near = evaluate(*given_, Grouped(gallery="track", nearest=True), columns=columns, details=True, top=3)
    mean = evaluate(*given_, Grouped(gallery="track"), columns=columns, details=True)
    assert (near.mAP, mean.mAP) == (1, 0.5)
    assert near.details.top.tolist() == [[0, 1]] and mean.details.top.tolist() == [[1, 0]]
    assert near.card["groups"] == {"gallery": "nearest image of each track"} and near.card["gallery"] == 2
    assert mean.card["groups"] == {"gallery": "mean of each track"} and near.card["protocol"] == "grouped"
    assert near.card["protocol_settings"] == {"query": None, "gallery": "track", "nearest": True}


def test_several_images_of_a_query_worked_out_by_hand():
    # Images of one query at 0 and 6 have the mean 3: the other person at 2 is nearer than the query's at 5.
    result = evaluate(
        line(0, 6), line(2, 5), [1, 1], [2, 1], [0, 0], [1, 1], Grouped(query="shots"), columns=({"shots": [7, 7]}, {})
    )
    assert (result.mAP, result.card["queries"], result.card["groups"]) == (0.5, 1, {"query": "mean of each shots"})


def test_mean_is_taken_before_cosines():
    # (0, 1) and (3, 0) have the mean (1.5, 0.5), nearer to (1, 0); the mean of their directions is as far from both.
    query, gallery = torch.tensor([[0.0, 1.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    columns = {"track": [4, 4]}, {}
    found = evaluate(query, gallery, [1, 1], [2, 1], [0, 0], [1, 1], Grouped("track"), "cosine", columns=columns)
    assert found.mAP == 1


class Drawn(Protocol):
    """Trials of half of the tracks, which ignore equal clothes; AP from the distances of groups."""

    metrics = ("AP",)

    def __init__(self, nearest: bool = False) -> None:
        super().__init__("drawn", "1", camera_filter=False, groups=Groups("track", "track", nearest))

    def draw_trials(self, query_ids, gallery_ids, query_cams, gallery_cams):
        random = np.random.default_rng(3)
        for _ in range(2):
            yield Trial(np.arange(len(query_ids)), random.permutation(len(gallery_ids))[: len(gallery_ids) * 2 // 3])

    def ignored(self, query_ids, gallery_ids, query_cams, gallery_cams, *, query_clothes, gallery_clothes):
        usual = super().ignored(query_ids, gallery_ids, query_cams, gallery_cams)
        return usual | (query_clothes[:, None] == gallery_clothes)

    def measure(self, distances, ignored, query_ids, gallery_ids, query_cams, gallery_cams):
        values = np.full(len(query_ids), np.nan)
        for q, order in enumerate(np.argsort(distances, axis=1, kind="stable")):
            ranks = np.flatnonzero(gallery_ids[order[~ignored[q, order]]] == query_ids[q]) + 1
            if len(ranks):
                values[q] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
        return {"AP": values}


class Whole(Drawn):
    """The same without trials."""

    def draw_trials(self, query_ids, gallery_ids, query_cams, gallery_cams):
        return None


def dressed(seed: int):
    """Return data with clothes by track and a number that differs within tracks."""
    features, known, own, (query, gallery) = made(seed)
    query, gallery = ({**its, "clothes": its["track"] % 2, "frame": np.arange(len(its["track"]))} for its in (query, gallery))
    return features, known, own, (query, gallery)


def as_entries(features, known, columns):
    """Return the same data with one row for each track, and the first images of the tracks."""
    lists = [listed(its["track"], True) for its in columns]
    first = [[images[0] for images in its] for its in lists]
    means = [torch.tensor([middle(rows, images) for images in its]) for rows, its in zip(features, lists)]
    ids = [known[n][first[n]] for n in (0, 1)]
    cams = [known[n + 2][first[n]] for n in (0, 1)]
    return means, (*ids, *cams), [{"clothes": its["clothes"][rows]} for its, rows in zip(columns, first)], first


class Ungrouped(Drawn):
    """The same protocol for data with one row for each group."""

    def __init__(self) -> None:
        Protocol.__init__(self, "drawn", "1", camera_filter=False)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("reranked", [False, True])
def test_trials_columns_and_reranking_are_those_of_groups(seed, reranked):
    features, known, _, columns = dressed(seed)
    means, inner, clothes, first = as_entries(features, known, columns)

    def of_groups(queries, images):
        return rerank(KReciprocal(4, 2), *features, columns=columns, trial=Trial(queries, images), protocol=Drawn())

    def of_rows(queries, images):
        return rerank(KReciprocal(4, 2), means[0][queries], means[1][images])

    found = evaluate(
        *features, *known, Drawn(), columns=columns, reranking=of_groups if reranked else None, details=True, top=5
    )
    wanted = evaluate(
        *means, *inner, Ungrouped(), columns=clothes, reranking=of_rows if reranked else None, details=True, top=5
    )
    assert found.metrics == wanted.metrics and found.deviations == wanted.deviations
    assert found.metrics["AP"] == pytest.approx(found.mAP, abs=1e-12)
    firsts = np.array([*first[1], -1])
    for one, other in zip(found.trials, wanted.trials, strict=True):
        assert np.array_equal(one.details.top[first[0]], firsts[other.details.top])


@pytest.mark.parametrize("seed", range(8))
def test_measure_gets_the_nearest_distances(seed):
    features, known, own, columns = dressed(seed)
    found = evaluate(*features, *known, Whole(nearest=True), own=own, columns=columns)
    assert found.metrics["AP"] == pytest.approx(found.mAP, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_nearest_takes_reranked_distances_of_images(seed):
    (query, gallery), (q_ids, g_ids, q_cams, g_cams), own, columns = made(seed)
    random = np.random.default_rng(seed)
    query, gallery = (rows + torch.from_numpy(random.normal(0, 0.1, rows.shape)).float() for rows in (query, gallery))
    rule = Grouped(gallery="track", nearest=True, camera_filter=False)
    reranking = rerank(KReciprocal(5, 2), query, gallery, columns=columns, protocol=rule)
    factor, offset = reranking.block(slice(0, len(query)))
    squared = ((query[:, None].double() - gallery.double()) ** 2).sum(2).float().numpy().astype(np.float64)
    distances = factor[:, None] * squared + offset
    tracks = listed(columns[1]["track"], True)
    group = np.stack([distances[:, images].min(axis=1) for images in tracks], axis=1)
    ids, ap = g_ids[[images[0] for images in tracks]], []
    pairs = {(q, next(n for n, images in enumerate(tracks) if g in images)) for q, g in own.tolist()}
    for q in range(len(query)):
        ranked = [m for m in np.argsort(group[q], kind="stable").tolist() if ids[m] != -1 and (q, m) not in pairs]
        hits = [rank for rank, m in enumerate(ranked, 1) if ids[m] == q_ids[q]]
        if hits:
            ap.append(fmean((n + 1) / rank for n, rank in enumerate(hits)))
    known = q_ids, g_ids, q_cams, g_cams

    def again(*places):
        return rerank(KReciprocal(5, 2), query, gallery, columns=columns, trial=Trial(*places), protocol=rule)

    for given_ in (reranking, again):
        result = evaluate(query, gallery, *known, rule, own=own, columns=columns, reranking=given_)
        assert result.mAP == pytest.approx(fmean(ap), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [1, 2, 3]}, r"gallery images 0 and 1 are in one group \(track\), but their identity is 1 and 2"),
        ({"cams": [1, 2, 1]}, r"gallery images 0 and 1 are in one group \(track\), but their camera is 1 and 2"),
        ({"columns": ({}, {})}, "groups gallery images by the column 'track', but they have no further columns"),
        ({"columns": ({}, {"clothes": [1, 1, 1]})}, "by the column 'track', but they have clothes"),
        ({"columns": None}, "but they have no further columns. Use a data set with that column"),
        ({"columns": ({}, {"track": [5, 5, -1]})}, r"1 of 3 gallery images have no track \(−1; the first is image 2\)"),
    ],
)
@pytest.mark.parametrize("nearest", [False, True])
def test_wrong_groups_are_refused(change, message, nearest):
    made_ = {"ids": [1, 1, 3], "cams": [1, 1, 1], "columns": ({}, {"track": [5, 5, 8]}), **change}
    with pytest.raises(DataError, match=message):
        evaluate(
            line(0), line(1, 2, 3), [1], made_["ids"], [0], made_["cams"], Grouped(gallery="track", nearest=nearest),
            columns=made_["columns"],
        )  # fmt: skip


def test_groups_of_different_clothes_are_refused():
    features, known, _, (query, gallery) = dressed(0)
    mixed = np.where(np.arange(45) == 44, 1 - gallery["clothes"], gallery["clothes"])
    assert (gallery["track"] == gallery["track"][44]).sum() > 1
    with pytest.raises(DataError, match=r"gallery images \d+ and 44 are in one group \(track\), but their clothes is"):
        evaluate(*features, *known, Whole(), columns=(query, {**gallery, "clothes": mixed}))


def test_drawn_galleries_of_nearest_images_are_refused():
    features, known, _, columns = dressed(0)
    with pytest.raises(ConfigError, match="protocol drawn draws trials, but galleries of groups with `nearest`"):
        evaluate(*features, *known, Drawn(nearest=True), columns=columns)


@pytest.mark.parametrize("arguments", [{}, {"query": "track", "nearest": True}, {"nearest": True}])
def test_grouped_refuses_useless_arguments(arguments):
    with pytest.raises(ValueError, match=r"nothing is grouped|nearest is about the groups of the gallery"):
        Grouped(**arguments)


# ---- the protocol of VehicleID: images that are not drawn are the queries


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rest_of_the_images_are_the_queries(seed):
    random = np.random.default_rng(seed)
    ids = np.concatenate([np.arange(5), random.integers(0, 5, 25)])
    features = torch.from_numpy(random.integers(0, 3, (30, 2)).astype(np.float32))
    rule = SingleGalleryShot(trials=4, seed=seed, camera_filter=False, rest=True)
    known = ids, ids, np.full(30, -1), np.full(30, -1)
    results = []
    for trial in rule.draw_trials(*known):
        assert sorted([*trial.queries, *trial.gallery]) == list(range(30)) and sorted(ids[trial.gallery]) == [0, 1, 2, 3, 4]
        ranks = []
        for q in trial.queries:
            near = sorted((float(((features[q] - features[g]) ** 2).sum()), g) for g in sorted(trial.gallery))
            ranks.append(1 + [ids[g] for _, g in near].index(ids[q]))
        results.append((fmean(1 / rank for rank in ranks), fmean(rank == 1 for rank in ranks)))
    own = np.stack([np.arange(30)] * 2, axis=1)
    for pairs in (None, own):
        found = evaluate(features, features, *known, rule, own=pairs)
        assert found.mAP == pytest.approx(fmean(mean for mean, _ in results), abs=1e-12)
        assert found.metrics["rank-1"] == pytest.approx(fmean(first for _, first in results), abs=1e-12)
        assert (found.card["queries"], found.card["valid_queries"], found.card["gallery"]) == (25, 25, 5)
        assert found.card["protocol_settings"] == {"seed": seed, "rest": True}


def test_rest_needs_the_same_images_on_both_sides():
    with pytest.raises(DataError, match=r"with rest, query and gallery must be the same images.* or set rest: false"):
        evaluate(line(0, 1), line(2, 3), [1, 2], [1, 1], protocol=SingleGalleryShot(camera_filter=False, rest=True))
