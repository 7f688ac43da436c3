"""Matching of label sets: order of the labellings, reports, and arrays of an earlier matching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from reidx.config.schema import connected
from reidx.contracts import LabelSet, RefinerContext
from reidx.errors import DataError
from reidx.labels.matching import LabelMatching, unmatched
from reidx.labels.pipeline import label_statistics

IMAGES = {"visible": 4, "infrared": 3}


class Matcher:
    """Matcher by a function of the label sets and contexts."""

    requires = frozenset({"pooled"})
    provides = frozenset({"other_labels", "weights"})

    def __init__(self, match: Callable[..., Any]) -> None:
        self.match = match

    def __call__(self, labels: list[LabelSet], contexts: list[RefinerContext]) -> Any:
        return self.match(labels, contexts)


def label_sets() -> dict[str, LabelSet]:
    found = {"visible": [0, 1, 1, -1], "infrared": [1, 0, 0]}
    return {name: LabelSet(np.array(labels), report={"clusters": 2.0, "turns": 1.0}) for name, labels in found.items()}


def contexts() -> dict[str, RefinerContext]:
    return {
        name: RefinerContext(
            {"embed": torch.ones(n, 2)}, "embed", None, None, lambda: np.zeros(0), 4, np.arange(n) // 2, np.zeros(n, np.int64)
        )
        for name, n in IMAGES.items()
    }


def test_matcher_gets_its_labellings_in_order() -> None:
    labels, given, seen = label_sets(), contexts(), []

    def match(labels: list[LabelSet], contexts: list[RefinerContext]) -> list[LabelSet]:
        seen.extend([*labels, *contexts])
        return [LabelSet(labels[0].labels, report={"matched": 2.0}), LabelSet(np.array([0, 0, -1]))]

    matching = LabelMatching(Matcher(match), ["infrared", "visible"])
    assert matching.views == {"pooled"} and matching.provides == {"other_labels", "weights"}
    labels["visible"].labels = labels["visible"].labels[:3]  # of the same number of images as the new labels
    given["visible"].cameras = given["visible"].cameras[:3]
    given["visible"].previous = np.array([0, 0, 1])
    found = matching(labels, given)
    wanted = [labels["infrared"], labels["visible"], given["infrared"], given["visible"]]
    assert all(a is b for a, b in zip(seen, wanted, strict=True))
    assert list(found) == ["infrared", "visible"]
    assert found["infrared"].report == {"clusters": 2.0, "turns": 1.0, "matched": 2.0}  # same labels
    assert found["visible"].report == {"turns": 1.0, **label_statistics(np.array([0, 0, -1]), np.array([0, 0, 1]))}
    assert found["visible"].report["clusters"] == found["visible"].report["outliers"] == 1.0


def test_matcher_that_leaves_no_cluster_is_named() -> None:
    matching = LabelMatching(Matcher(lambda labels, _: [labels[0], LabelSet(np.full(3, -1))]), ["visible", "infrared"])
    with pytest.raises(DataError, match=r"Epoch 5: Matcher left none of the 2 clusters of labelling 'infrared': all 3 images"):
        matching(label_sets(), contexts())


@pytest.mark.parametrize(
    ("labels", "fault"), [(np.array([0, 2, 2]), "labels have gaps"), (np.array([0, 1]), r"labels are int64 \(2,\)")]
)
def test_labels_after_matching_are_checked(labels: np.ndarray, fault: str) -> None:
    matching = LabelMatching(Matcher(lambda given, _: [given[0], LabelSet(labels)]), ["visible", "infrared"])
    with pytest.raises(ValueError, match=fault):
        matching(label_sets(), contexts())


def test_arrays_of_the_last_matching_are_dropped() -> None:
    labels = label_sets()
    labels["visible"].extra = {"other_labels": np.zeros(4), "agreement": np.ones(4)}
    labels["infrared"].weights = np.ones(3)
    labels["thermal"] = LabelSet(np.zeros(2, np.int64), np.ones(2))
    matching = LabelMatching(Matcher(lambda labels, _: labels), ["visible", "infrared"])
    found = unmatched(labels, [matching])
    assert {name: sorted(its.arrays()) for name, its in found.items()} == {
        "visible": ["agreement", "labels"],
        "infrared": ["labels"],
        "thermal": ["labels", "weights"],
    }
    assert found["visible"].report == labels["visible"].report and "other_labels" in labels["visible"].extra


def test_connected_names() -> None:
    pairs = [["a", "b"], ["c", "d"], ["b", "e"]]
    assert connected(pairs, ["a"]) == {"a", "b", "e"} == connected(pairs, ["e"])
    assert connected(pairs, ["d", "f"]) == {"c", "d", "f"}
    assert connected(pairs, []) == set() == connected([], [])
