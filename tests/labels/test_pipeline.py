"""From features to a labelling: the order of the calls, their arguments, and the error messages."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from reidx.contracts import LabelSet, RefinerContext
from reidx.errors import DataError
from reidx.labels.pipeline import LabelPipeline, check_labels, label_statistics, quality

CAMERAS = np.array([0, 1, 0, 1, 0, 1])


class Part:
    """Distance, clusterer or refiner that records its calls in a common list."""

    def __init__(self, calls: list[tuple[str, Any]], name: str, answer: Any, **declared: Any) -> None:
        self.calls, self.name, self.answer = calls, name, answer
        for key, value in declared.items():
            setattr(self, key, value)

    def __call__(self, *given: Any) -> Any:
        self.calls.append((self.name, given))
        return self.answer(*given) if callable(self.answer) else self.answer


def graph() -> csr_array:
    return csr_array(np.full((6, 6), 0.5))


def bank() -> dict[str, Tensor]:
    return {name: torch.full((6, 2), value) for name, value in (("embed", 1.0), ("upper", 2.0), ("lower", 3.0))}


def labels_of(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_each_part_receives_the_previous_result() -> None:
    calls: list[tuple[str, Any]] = []
    made, found, features = graph(), labels_of(0, 0, 1, 1, -1, -1), bank()
    first, second = LabelSet(labels_of(0, 0, 1, 1, 2, -1)), LabelSet(labels_of(0, 0, 1, 1, 2, 2), report={"extra": 7.0})
    pipeline = LabelPipeline(
        "embed",
        Part(calls, "distance", made),
        Part(calls, "clusterer", found, clusterer_input="graph"),
        [Part(calls, "first", first), Part(calls, "second", second)],
    )
    previous = labels_of(0, 0, 0, 1, 1, 1)
    result = pipeline(features, epoch=3, cameras=CAMERAS, previous=previous)
    assert [name for name, _ in calls] == ["distance", "clusterer", "first", "second"]
    given = dict(calls)
    assert given["distance"] == (features["embed"],)
    assert given["clusterer"][0] is made
    assert np.array_equal(given["first"][0].labels, found)
    assert given["second"][0] is first and result is second
    context = given["second"][1]
    assert isinstance(context, RefinerContext)
    assert (context.feature, context.epoch, context.graph, context.features) == ("embed", 3, made, features)
    assert context.previous is previous and context.cameras is CAMERAS
    assert result.report["extra"] == 7.0 and result.report["clusters"] == 3.0


def test_clusterer_of_features_needs_no_distance() -> None:
    calls: list[tuple[str, Any]] = []
    seen: list[RefinerContext] = []

    def refine(labels: LabelSet, context: RefinerContext) -> LabelSet:
        seen.append(context)
        return labels

    features = bank()
    clusterer = Part(calls, "clusterer", labels_of(0, 0, 1, 1, 2, 2), clusterer_input="features")
    LabelPipeline("upper", Part(calls, "distance", graph()), clusterer, [refine])(features, epoch=0, cameras=CAMERAS)
    assert calls == [("clusterer", (features["upper"],))]
    assert seen[0].graph is None
    LabelPipeline("upper", None, clusterer)(features, epoch=0, cameras=CAMERAS)  # works without a distance


def test_distance_receives_several_views_by_name() -> None:
    calls: list[tuple[str, Any]] = []
    distance = Part(calls, "distance", graph(), requires=frozenset({"upper", "lower"}))
    refiner = Part(calls, "refiner", lambda labels, context: labels, requires={"parts"})
    pipeline = LabelPipeline("embed", distance, Part(calls, "c", labels_of(0, 0, 1, 1, 2, 2)), [refiner])
    assert pipeline.views == {"embed", "upper", "lower", "parts"}
    features = {**bank(), "parts": torch.zeros(6, 3, 2)}
    pipeline(features, epoch=0, cameras=CAMERAS)
    (views,) = calls[0][1]
    assert set(views) == {"upper", "lower"} and views["upper"] is features["upper"]


def test_distance_and_refiner_get_features_by_name() -> None:
    got: list[dict[str, Any]] = []

    class Named:
        def __call__(self, features: Any, *, lower: Any, spare: Any = None) -> Any:
            got.append({"lower": lower, "spare": spare})
            return graph()

    class Refiner:
        def __call__(self, labels: LabelSet, context: RefinerContext, *, cameras: Any, upper: Any = None) -> LabelSet:
            got.append({"cameras": cameras, "upper": upper})
            return labels

    clusterer, features = Part([], "c", labels_of(0, 0, 1, 1, 2, 2)), bank()
    pipeline = LabelPipeline("embed", Named(), clusterer, [Refiner()], provided=("embed", "lower"))
    assert pipeline.views == {"embed", "lower"}
    pipeline(features, epoch=0, cameras=CAMERAS)
    pipeline = LabelPipeline("embed", Named(), clusterer, [Refiner()], provided=("embed", "lower", "upper"))
    assert pipeline.views == {"embed", "lower", "upper"}
    pipeline(features, epoch=0, cameras=CAMERAS)
    first = [{"lower": features["lower"], "spare": None}, {"cameras": CAMERAS, "upper": None}]
    second = [first[0], {"cameras": CAMERAS, "upper": features["upper"]}]
    assert all(a[name] is b[name] for a, b in zip(got, [*first, *second], strict=True) for name in b)


def pipeline_of(labels: np.ndarray, **refined: Any) -> LabelPipeline:
    refiners = [lambda labels, context: LabelSet(labels.labels, **refined)] if refined else []
    return LabelPipeline("embed", lambda features: graph(), lambda given: labels, refiners)


def test_error_without_clusters_gives_advice() -> None:
    with pytest.raises(DataError) as error:
        pipeline_of(np.full(6, -1))(bank(), epoch=4, cameras=CAMERAS)
    text = str(error.value)
    assert "Epoch 5: function found no cluster among 6 images" in text
    assert "0.500 (1 %) and 0.500 (median" in text
    assert "a larger eps or share, a smaller min_samples" in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(6, 2), (6, 3, 2)])
def test_non_finite_features_are_named_and_counted(bad: float, shape: tuple[int, ...]) -> None:
    features = torch.zeros(shape)
    features[1], features[4].view(-1)[0] = bad, bad
    with pytest.raises(DataError, match=r"Epoch 1: the feature 'embed' of 2 images is not finite.*learning rate"):
        pipeline_of(np.zeros(6, np.int64))({"embed": features}, epoch=0, cameras=CAMERAS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (labels_of(0, 0, 2, 2, 3, 3), "gaps: 3 labels, the largest is 3"),
        (labels_of(0, 0, 1, 1, -2, -1), "a label is -2"),
        (labels_of(0, 0, 1), r"int64 \(3,\), not int64 \(6,\)"),
    ],
)
def test_clusterer_that_breaks_its_contract_fails(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline_of(labels)(bank(), epoch=0, cameras=CAMERAS)


def test_only_clusterer_labels_are_made_int64() -> None:
    assert pipeline_of(np.zeros(6, np.int32))(bank(), epoch=0, cameras=CAMERAS).labels.dtype == np.int64
    with pytest.raises(ValueError, match="int32"):
        check_labels(LabelSet(np.zeros(6, np.int32)), 6)


def test_weights_and_soft_targets_must_fit_labels() -> None:
    labels = labels_of(0, 0, 1, 1, 1, -1)
    good = {"weights": np.ones((6, 3), np.float32), "soft_targets": np.full((6, 2), 0.5, np.float32)}
    assert pipeline_of(labels, **good)(bank(), epoch=0, cameras=CAMERAS).weights is good["weights"]
    with pytest.raises(ValueError, match="5 weights for 6 images"):
        pipeline_of(labels, weights=np.ones(5, np.float32))(bank(), epoch=0, cameras=CAMERAS)
    with pytest.raises(ValueError, match=r"soft targets are \(6, 3\), not \(6, 2\)"):
        pipeline_of(labels, soft_targets=np.ones((6, 3), np.float32))(bank(), epoch=0, cameras=CAMERAS)


# ---- the statistics of a labelling


def rand_index(a: list[int], b: list[int]) -> float:
    """Compute the adjusted Rand index from counts of pairs."""
    pairs = list(combinations(range(len(a)), 2))
    together_a = {p for p in pairs if a[p[0]] == a[p[1]]}
    together_b = {p for p in pairs if b[p[0]] == b[p[1]]}
    expected = len(together_a) * len(together_b) / len(pairs)
    return (len(together_a & together_b) - expected) / ((len(together_a) + len(together_b)) / 2 - expected)


def test_counts() -> None:
    assert label_statistics(labels_of(0, 0, 0, 1, 1, 2, -1, -1)) == {
        "clusters": 3.0, "outliers": 2.0, "largest": 3.0, "median_size": 2.0,
    }  # fmt: skip
    assert label_statistics(labels_of(-1, -1))["largest"] == 0.0


def test_stability_counts_images_clustered_both_times() -> None:
    before, now = labels_of(0, 0, 1, 1, -1, 2), labels_of(1, 1, 1, 0, 0, -1)
    # the first four: {0 1} {2 3} became {0 1 2} {3}. Of 2 and 3 pairs, 1 is common; expected by chance: 2 * 3 / 6 = 1
    assert rand_index([0, 0, 1, 1], [1, 1, 1, 0]) == 0.0
    assert label_statistics(now, before)["stability"] == pytest.approx(0.0)
    assert label_statistics(before, before)["stability"] == 1.0
    renamed = labels_of(2, 2, 0, 0, -1, 1)
    assert label_statistics(renamed, before)["stability"] == 1.0
    assert label_statistics(labels_of(-1, 0), labels_of(0, -1))["stability"] == 0.0
    assert "stability" not in label_statistics(now)


def test_stability_and_ari_against_pairs() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(-1, 4, 30), random.integers(-1, 4, 30)
    both = (a >= 0) & (b >= 0)
    assert label_statistics(a, b)["stability"] == pytest.approx(rand_index(a[both].tolist(), b[both].tolist()))
    truth = random.integers(0, 5, 30)
    alone = [100 + i if v < 0 else v for i, v in enumerate(a.tolist())]
    assert quality(a, truth) == {"ari": pytest.approx(rand_index(alone, truth.tolist()))}


def test_outliers_count_as_single_clusters() -> None:
    truth = labels_of(5, 5, 9, 9)
    assert quality(truth - 5, truth) == {"ari": 1.0}
    # two right, two outliers: of 1 and 2 pairs, 1 is common; expected by chance: 1 * 2 / 6
    assert quality(labels_of(0, 0, -1, -1), truth)["ari"] == pytest.approx((1 - 1 / 3) / (1.5 - 1 / 3))
    given = labels_of(0, 0, -1, -1)
    quality(given, truth)
    assert given.tolist() == [0, 0, -1, -1]


class Near:
    """Distance with a `within` argument, which records its values."""

    def __init__(self) -> None:
        self.cuts: list[float] = []

    def __call__(self, features: Tensor, within: float = 1.0) -> csr_array:
        self.cuts.append(within)
        return graph()


@pytest.mark.parametrize(
    ("reaches", "within"), [((0.6, 0.62), 0.62), ((0.6,), 0.6), ((0.6, None), 1.0), ((None, 0.3), 1.0)]
)
def test_graph_reaches_as_far_as_any_part(reaches: tuple[Any, ...], within: float) -> None:
    found, distance = labels_of(0, 0, 1, 1, -1, -1), Near()
    parts = [
        Part([], str(i), found if i == 0 else LabelSet(found), **({} if reach is None else {"reach": reach}))
        for i, reach in enumerate(reaches)
    ]
    LabelPipeline("embed", distance, parts[0], parts[1:])(bank(), epoch=0, cameras=CAMERAS)
    assert distance.cuts == [within]


def test_advice_without_clusters_looks_further_out() -> None:
    distance = Near()
    pipeline = LabelPipeline("embed", distance, Part([], "clusterer", np.full(6, -1), reach=0.1))
    with pytest.raises(DataError, match=r"nearest pairs are at distances of 0\.500"):
        pipeline(bank(), epoch=0, cameras=CAMERAS)
    assert distance.cuts == [0.1, pytest.approx(0.55)]  # half-way to 1, where enough pairs are


# ---- refiners that use other settings of the clusterer


class Level:
    """Clusterer with one threshold, which is also its reach."""

    clusterer_input = "graph"

    def __init__(self, eps: float = 0.4) -> None:
        self.eps = self.reach = eps

    def __call__(self, graph: csr_array) -> np.ndarray:
        return (np.arange(6) >= 10 * self.eps).astype(np.int64)


class Wider:
    """Refiner that clusters again with a larger eps and reads no distance itself."""

    reach = 0.0

    def variations(self, clusterer: Any) -> list[dict[str, Any]]:
        return [{"eps": clusterer.eps + 0.1}]

    def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
        assert np.array_equal(context.cluster(), labels.labels)
        wider = context.cluster(**self.variations(context.clusterer)[0])
        return LabelSet(labels.labels, extra={"wider": wider})


def test_refiner_clusters_only_with_announced_settings() -> None:
    seen: list[float] = []

    def distance(features: Tensor, within: float) -> csr_array:
        seen.append(within)
        return graph()

    pipeline = LabelPipeline("embed", distance, Level(), [Wider()], Level)
    made = pipeline(bank(), epoch=0, cameras=CAMERAS)
    assert made.labels.tolist() == [0, 0, 0, 0, 1, 1] and made.extra["wider"].tolist() == [0, 0, 0, 0, 0, 1]
    assert seen == [0.5]

    class Unannounced(Wider):
        def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
            return LabelSet(context.cluster(eps=0.9))

    with pytest.raises(ValueError, match=r"clusters with \{.eps.: 0.9\}, which is not among its variations"):
        LabelPipeline("embed", distance, Level(), [Unannounced()], Level)(
            bank(), epoch=0, cameras=CAMERAS
        )


def test_extra_columns_cover_all_images() -> None:
    with pytest.raises(ValueError, match="there are 4 colours for 6 images"):
        check_labels(LabelSet(labels_of(0, 0, 0, 1, 1, 1), extra={"colours": np.zeros(4)}), 6)


def test_label_set_round_trip_through_arrays() -> None:
    made = LabelSet(labels_of(0, 1), np.ones(2), np.ones((2, 2)), {"colours": np.arange(2)})
    back = LabelSet.of(made.arrays())
    assert all(np.array_equal(back.arrays()[name], array) for name, array in made.arrays().items())
    assert set(LabelSet(labels_of(0, 1)).arrays()) == {"labels"}


@pytest.mark.parametrize("images", [1, 2, 3, 7, 60, 3000])
def test_stability_equals_scikit_learns_index(images: int) -> None:
    """To the last bit, from one group to a group per image."""
    random = np.random.default_rng(images)
    for groups in {1, 2, 5, images}:
        a, b = random.integers(0, groups, images), random.integers(0, max(1, groups // 2), images)
        for other in (b, a, np.where(random.random(images) < 0.3, b, a)):
            assert label_statistics(a, other)["stability"] == adjusted_rand_score(other, a)
