"""The self-paced rules on examples worked out by hand, and against explicit sets of images."""

from __future__ import annotations

import numpy as np
import pytest
from reidx_spcl.refiner import SelfPaced, dissimilarity, separate

from reidx.contracts import LabelSet, RefinerContext
from reidx.errors import ConfigError
from reidx.labels.clusterers.dbscan import DBSCAN
from reidx.labels.clusterers.kmeans import KMeans

EPS = 0.6


def refine(refiner: SelfPaced, given: list[int], tight: list[int], loose: list[int], **more: np.ndarray) -> LabelSet:
    """Refine the labels ``given`` with a clusterer that returns ``tight`` and ``loose``."""

    def cluster(eps: float) -> np.ndarray:
        return np.array(tight if eps < EPS else loose, dtype=np.int64)

    context = RefinerContext({}, "embed", None, DBSCAN(EPS), cluster, 0)
    return refiner(LabelSet(np.array(given, dtype=np.int64), **more), context)


def groups(labels: np.ndarray) -> set[frozenset[int]]:
    """Return the classes of a labelling as sets of images, without their numbers."""
    return {frozenset(np.flatnonzero(labels == k).tolist()) for k in set(labels.tolist())}


#         0  1  2  3   4  5   6   7
GIVEN = [0, 0, 0, 0, 1, 1, -1, -1]
TIGHT = [0, 0, 0, -1, 1, 1, -1, -1]
LOOSE = [0, 0, 0, 0, 1, 1, 1, -1]
# compactness: 1 − 3/4 for images 0..2, 1 − 1/4 for 3, 0 for the others
# independence: 0 for the cluster {0..3}, 1 − 2/3 for {4, 5}, 1 − 1/3 for {6}, 0 for {7}


def test_by_hand() -> None:
    refiner = SelfPaced()
    refined = refine(refiner, GIVEN, TIGHT, LOOSE)
    assert refined.labels.tolist() == [0, 0, 0, 3, 1, 1, 4, 2]
    assert refiner.threshold == pytest.approx(1 / 3)  # entry min(round(0.9 · 2), 1) of (0, 1/3)
    assert refined.report == {"clusters": 2.0, "outliers": 3.0, "threshold": refiner.threshold}


def test_cluster_growing_into_others_is_dissolved() -> None:
    refiner = SelfPaced(quantile=0.2)  # entry round(0.4) of (0, 1/3)
    refined = refine(refiner, GIVEN, TIGHT, LOOSE)
    assert refiner.threshold == 0.0
    assert groups(refined.labels) == {frozenset({0, 1, 2}), *(frozenset({i}) for i in range(3, 8))}
    assert refined.report["clusters"] == 1.0
    assert refined.report["outliers"] == 5.0


def test_by_hand_dissimilarities() -> None:
    assert separate(np.array(TIGHT)).tolist() == [0, 0, 0, 2, 1, 1, 3, 4]
    given, tight, loose = (separate(np.array(labels)) for labels in (GIVEN, TIGHT, LOOSE))
    assert dissimilarity(given, tight).tolist() == [0.25, 0.25, 0.25, 0.75, 0, 0, 0, 0]
    assert dissimilarity(given, loose) == pytest.approx([0, 0, 0, 0, 1 / 3, 1 / 3, 2 / 3, 0])


# ---- a second derivation, by an N × N table of shared labels


def shares(labels: list[int]) -> list[list[bool]]:
    return [[i == j or (a == b and a >= 0) for j, b in enumerate(labels)] for i, a in enumerate(labels)]


def apart(table: list[list[bool]], other: list[list[bool]]) -> list[float]:
    return [
        1.0 - sum(a and b for a, b in zip(row, its)) / sum(a or b for a, b in zip(row, its))
        for row, its in zip(table, other)
    ]


def naive(
    given: list[int], tight: list[int], loose: list[int], threshold: float | None, quantile: float
) -> tuple[set[frozenset[int]], float | None]:
    table = shares(given)
    members = [[j for j, shared in enumerate(row) if shared] for row in table]
    compact, independent = apart(table, shares(tight)), apart(table, shares(loose))
    of_cluster = {tuple(m): min(independent[j] for j in m) for m in members}
    if threshold is None:
        ordered = sorted(value for m, value in of_cluster.items() if len(m) > 1)
        if ordered:
            threshold = ordered[min(len(ordered) - 1, int(np.round(quantile * len(ordered))))]
    kept = [
        (threshold is None or of_cluster[tuple(members[i])] <= threshold)
        and compact[i] <= min(compact[j] for j in members[i])
        for i in range(len(given))
    ]
    clusters = {frozenset(j for j in m if kept[j]) for m in members} - {frozenset()}
    return clusters | {frozenset({i}) for i, stays in enumerate(kept) if not stays}, threshold


def labelling(random: np.random.Generator, images: int, clusters: int) -> list[int]:
    labels = random.integers(-1, clusters, images)
    return (np.unique(np.append(labels, -1), return_inverse=True)[1][:-1] - 1).tolist()


@pytest.mark.parametrize("seed", range(30))
def test_against_sets_of_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    quantile = [0.0, 0.3, 0.5, 0.9, 1.0][seed % 5]
    refiner, threshold = SelfPaced(quantile=quantile), None
    for _ in range(3):  # the first threshold is used for all
        given, tight, loose = (labelling(random, 40, k) for k in random.integers(1, 15, 3))
        expected, threshold = naive(given, tight, loose, threshold, quantile)
        refined = refine(refiner, given, tight, loose)
        assert groups(refined.labels) == expected
        assert refiner.threshold == threshold
        assert sorted(set(refined.labels.tolist())) == list(range(len(expected)))
        assert refined.report["clusters"] == sum(len(group) > 1 for group in expected)
        assert refined.report["outliers"] == sum(len(group) == 1 for group in expected)


def test_equal_labellings_keep_every_cluster() -> None:
    refined = refine(SelfPaced(), GIVEN, GIVEN, GIVEN)
    assert groups(refined.labels) == {frozenset({0, 1, 2, 3}), frozenset({4, 5}), frozenset({6}), frozenset({7})}
    assert refined.report["threshold"] == 0.0


def test_threshold_is_fixed_once_and_restored() -> None:
    refiner = SelfPaced()
    refine(refiner, GIVEN, GIVEN, GIVEN)
    assert refiner.threshold == 0.0
    strict = refine(refiner, GIVEN, TIGHT, LOOSE)
    assert refiner.threshold == 0.0  # from this labelling it would be 1/3
    assert strict.report["clusters"] == 1.0
    resumed = SelfPaced()
    resumed.load_state_dict(refiner.state_dict())
    assert np.array_equal(refine(resumed, GIVEN, TIGHT, LOOSE).labels, strict.labels)
    assert SelfPaced().state_dict() == {}


def test_only_single_image_clusters_are_accepted() -> None:
    refiner = SelfPaced()
    for alone in ([0, 1, 2, 3], [-1, -1, 0, -1]):
        refined = refine(refiner, alone, alone, [0, 0, 0, 0])
        assert sorted(refined.labels.tolist()) == [0, 1, 2, 3]
        assert refined.report == {"clusters": 0.0, "outliers": 4.0}
        assert refiner.threshold is None
    refine(refiner, GIVEN, TIGHT, LOOSE)
    assert refiner.threshold == pytest.approx(1 / 3)


def test_image_weights_stay_and_soft_targets_go() -> None:
    weights, soft = np.linspace(0, 1, 8, dtype=np.float32), np.full((8, 2), 0.5, np.float32)
    refined = refine(SelfPaced(), GIVEN, TIGHT, LOOSE, weights=weights, soft_targets=soft)
    assert refined.weights is weights
    assert refined.soft_targets is None


def test_many_images_need_no_table_of_pairs() -> None:
    random = np.random.default_rng(0)
    given, tight, loose = (labelling(random, 200_000, 20_000) for _ in range(3))  # a table of pairs: 40 GB
    refined = refine(SelfPaced(), given, tight, loose)
    assert len(refined.labels) == 200_000
    assert refined.labels.max() > 100_000


def test_variations_are_smaller_and_larger_eps() -> None:
    changes = SelfPaced(gap=0.05).variations(DBSCAN(0.5))
    assert [change["eps"] for change in changes] == pytest.approx([0.45, 0.55])


def test_a_clusterer_without_eps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"KMeans has none.*such as DBSCAN"):
        SelfPaced().variations(KMeans(5))


@pytest.mark.parametrize("wrong", [{"gap": 0.0}, {"gap": -0.1}, {"quantile": 1.1}, {"quantile": -0.1}], ids=str)
def test_wrong_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SelfPaced(**wrong)
