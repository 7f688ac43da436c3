"""Cross agreement against set arithmetic on sorted lists of distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reidx_pplr.agreement import CrossAgreement, overlap
from torch import Tensor

from reidx.contracts import LabelSet, RefinerContext
from reidx.errors import DataError
from reidx.labels.neighbours.sharding import nearest_sharded
from reidx.labels.pipeline import check_labels


def labelling(whole: Tensor, parts: Tensor) -> RefinerContext:
    return RefinerContext(
        features={"global": whole, "parts": parts},
        feature="global",
        graph=None,
        clusterer=None,
        cluster=lambda **_: np.zeros(0, np.int64),
        epoch=0,
    )


def neighbours(features: Tensor, k: int) -> list[set[int]]:
    """Return for each row the k other rows with the smallest angle to it."""
    rows = [[x / math.hypot(*row) for x in row] for row in features.double().tolist()]
    found = []
    for i, a in enumerate(rows):
        cosines = {j: sum(x * y for x, y in zip(a, b)) for j, b in enumerate(rows) if j != i}
        found.append(set(sorted(cosines, key=lambda j: (-cosines[j], j))[:k]))
    return found


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("images", "parts", "k"), [(40, 3, 5), (40, 1, 20), (30, 4, 1), (8, 2, 20)])
def test_agreement_is_the_overlap_of_neighbours(images: int, parts: int, k: int) -> None:
    whole = randn(images, 6)
    stripes = whole[:, None] + 0.7 * randn(images, parts, 6, seed=1) * torch.arange(parts)[:, None]
    stripes *= 1 + 9 * torch.rand(images, parts, 1)  # lengths do not count
    labels = LabelSet(np.arange(images) % 3 - 1)
    refined = CrossAgreement(k)(labels, labelling(whole, stripes))
    agreement = refined.extra["agreement"]
    assert agreement.shape == (images, parts) and agreement.dtype == np.float32
    of_whole = neighbours(whole, k)
    for p in range(parts):
        for i, (a, b) in enumerate(zip(of_whole, neighbours(stripes[:, p], k))):
            assert agreement[i, p] == pytest.approx(len(a & b) / len(a | b))
    assert refined.report["agreement"] == pytest.approx(float(agreement.mean()))
    if parts > 1:  # the first stripe equals the whole image, the last is least similar to it
        assert (agreement[:, 0] == 1).all() and agreement[:, -1].mean() <= agreement[:, 0].mean()
    check_labels(refined, images)


def test_by_hand() -> None:
    # angles on a circle, k = 2: the neighbours of the image at 0° are at 10° and 20° for the whole, and at 10° and −15°
    # for the part, so one of three is shared
    def at(*degrees: float) -> Tensor:
        return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])

    whole, part = at(0, 10, 20, 90, 180), at(0, 10, 120, -15, 200)
    labels = CrossAgreement(2)(LabelSet(np.zeros(5, np.int64)), labelling(whole, part[:, None]))
    assert labels.extra["agreement"][0].tolist() == pytest.approx([1 / 3])


def test_overlap_of_disjoint_and_equal_rows() -> None:
    lists = np.array([[3, 1, 2], [5, 6, 7]])
    assert overlap(lists, lists[:, ::-1]).tolist() == [1.0, 1.0]
    assert overlap(lists, lists[::-1]).tolist() == [0.0, 0.0]
    assert overlap(lists, np.array([[2, 1, 9], [5, 8, 9]])).tolist() == pytest.approx([2 / 4, 1 / 5])


def test_neighbours_exclude_the_image_itself() -> None:
    features = torch.ones(6, 3)
    assert CrossAgreement(2).neighbours(features).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]
    assert CrossAgreement(20).neighbours(features).shape == (6, 5)


def test_sharded_search_on_a_device_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    given = labelling(randn(30, 6), randn(30, 2, 6, seed=1))
    labels = LabelSet(np.zeros(30, np.int64))
    alone = CrossAgreement(5)(labels, given).extra["agreement"]
    asked = []

    def search(*args: object, device: str | None, **kwargs: object) -> object:
        asked.append(device)
        return nearest_sharded(*args, device="cpu", **kwargs)

    monkeypatch.setattr("reidx_pplr.agreement.nearest_sharded", search)
    shared = CrossAgreement(5, device="cuda:1", sharded=True)(labels, given).extra["agreement"]
    assert asked == ["cuda:1"] * 3 and np.array_equal(shared, alone)


def test_labels_and_other_extras_are_kept() -> None:
    given = LabelSet(
        np.array([0, -1, 1, 0, 1]),
        weights=np.ones(5, np.float32),
        extra={"other": np.arange(5)},
        report={"kept": 1.0},
    )
    before = given.labels.copy()
    refined = CrossAgreement(2)(given, labelling(randn(5, 4), randn(5, 2, 4, seed=1)))
    assert np.array_equal(refined.labels, before)
    assert np.array_equal(given.labels, before)
    assert refined.weights is given.weights
    assert set(refined.extra) == {"other", "agreement"} and set(given.extra) == {"other"}
    assert set(refined.report) == {"kept", "agreement"} and set(given.report) == {"kept"}


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        CrossAgreement(0)
    dead = randn(5, 2, 4)
    dead[3, 1] = 0
    with pytest.raises(DataError, match="1 of 5 rows are all zeros"):
        CrossAgreement(2)(LabelSet(np.zeros(5, np.int64)), labelling(randn(5, 4), dead))
