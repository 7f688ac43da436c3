"""Progressive matching against all permutations, a value by hand, alternation, and people of two modalities."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from reidx_usl_vi.matching import ProgressiveGraphMatching, match_progressively

from reidx.contracts import LabelSet, RefinerContext

NAMES = ["visible", "infrared"]


def naive(costs: np.ndarray) -> tuple[list[int], list[int]]:
    """Match rows, at least as many as columns, by trying all choices of rows for the columns, round after round."""
    left, width = list(range(len(costs))), costs.shape[1]
    forward, backward = [-1] * len(costs), [-1] * width
    first = True
    while left:
        if len(left) >= width:
            pairings = [list(zip(rows, range(width))) for rows in itertools.permutations(left, width)]
        else:
            pairings = [list(zip(left, columns)) for columns in itertools.permutations(range(width), len(left))]
        best = min(pairings, key=lambda pairs: sum(costs[row, column] for row, column in pairs))
        for row, column in best:
            forward[row] = column
            if first:
                backward[column] = row
        left, first = [row for row in left if forward[row] < 0], False
    return forward, backward


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (5, 3), (6, 2), (5, 1), (7, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_matching_equals_a_search_of_permutations(shape: tuple[int, int], seed: int) -> None:
    costs = np.random.default_rng(seed).uniform(size=shape)
    forward, backward = match_progressively(costs)
    assert (forward.tolist(), backward.tolist()) == naive(costs)
    columns, rows = match_progressively(costs.T)
    assert (rows.tolist(), columns.tolist()) == naive(costs)


def context(features: torch.Tensor, epoch: int = 0) -> RefinerContext:
    return RefinerContext({"embed": features}, "embed", None, None, lambda: np.zeros(0), epoch)


def along(degrees: list[float]) -> torch.Tensor:
    """Vectors of length 2 at these angles."""
    angles = torch.tensor(degrees).deg2rad()
    return 2 * torch.stack([angles.cos(), angles.sin()], 1)


def test_match_by_hand() -> None:
    """Visible clusters at 0°, 40° and 61°, infrared ones at 10° and 50°.

    The cheapest two pairs are 0° with 10° and 40° with 50°, at 2 exp(−cos 10°); 61° with 50° would cost exp(−cos 11°). In the
    second round only 61° is left, and 50° is the nearest to it. Outliers, at 90° and 0°, count nowhere.
    """
    visible = LabelSet(np.array([0, 1, 1, 2, -1]))
    infrared = LabelSet(np.array([1, 0, -1]))
    contexts = [context(along([0, 40, 40, 61, 90])), context(along([10, 50, 0]))]
    found = ProgressiveGraphMatching(NAMES, alternate=False)([visible, infrared], contexts)
    assert found[0].extra["other_labels"].tolist() == [1, 0, 0, 0, -1]
    assert found[1].extra["other_labels"].tolist() == [0, 1, -1]
    assert [given.labels.tolist() for given in found] == [[0, 1, 1, 2, -1], [1, 0, -1]]


def test_modalities_alternate_by_epoch() -> None:
    labels = [LabelSet(np.array([0, 1, -1])), LabelSet(np.array([0, 0, 1]))]
    features = [along([0, 90, 0]), along([0, 0, 90])]
    both = [[0, 1, -1], [0, 0, 1]]
    for epoch in range(4):
        contexts = [context(each, epoch) for each in features]
        found = ProgressiveGraphMatching(NAMES)(labels, contexts)
        expected = [both[side] if side == epoch % 2 else [-1] * 3 for side in (0, 1)]
        assert [each.extra["other_labels"].tolist() for each in found] == expected


def test_further_arrays_of_a_labelling_stay() -> None:
    given = LabelSet(np.array([0, 1]), extra={"agreement": np.ones(2)})
    found = ProgressiveGraphMatching(NAMES)([given, replace(given)], [context(along([0, 90]))] * 2)
    assert set(found[0].extra) == {"agreement", "other_labels"} and set(given.extra) == {"agreement"}


@pytest.mark.parametrize("names", [["visible"], ["visible", "infrared", "thermal"]])
def test_other_numbers_of_labellings_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="two labellings, not"):
        ProgressiveGraphMatching(names)


def test_people_of_two_modalities_are_matched() -> None:
    """An infrared person is the visible one with a common shift and noise; 20 people, 8 images of each in a modality."""
    random = torch.Generator().manual_seed(0)
    people = torch.randn(20, 32, generator=random)
    shift = torch.randn(32, generator=random)
    order = torch.randperm(20, generator=random)
    visible = people.repeat_interleave(8, 0) + 0.5 * torch.randn(160, 32, generator=random)
    infrared = (people[order] + shift).repeat_interleave(8, 0) + 0.5 * torch.randn(160, 32, generator=random)
    labels = np.repeat(np.arange(20), 8)
    found = ProgressiveGraphMatching(NAMES)([LabelSet(labels), LabelSet(labels)], [context(visible), context(infrared)])
    right = (order.numpy()[found[0].extra["other_labels"]] == labels).mean()
    assert right > 0.8  # one of 20 by chance
