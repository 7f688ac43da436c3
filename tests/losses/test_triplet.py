"""The batch-hard triplet loss against a loop over all triplets, and on a line by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reidx.losses.triplet import Triplet, euclidean


def by_loop(
    features: Tensor, targets: list[int], margin: float | None, normalize: bool, weights: list[float]
) -> float:
    rows = features.double().tolist()
    if normalize:
        rows = [[v / math.hypot(*row) for v in row] for row in rows]
    total = 0.0
    for i, anchor in enumerate(rows):
        positive = max(math.dist(anchor, rows[j]) for j in range(len(rows)) if targets[j] == targets[i])
        others = [math.dist(anchor, rows[j]) for j in range(len(rows)) if targets[j] != targets[i]]
        if others:
            gap = positive - min(others)
            total += weights[i] * (math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin))
    return total / len(rows)


def test_on_a_line() -> None:
    features = torch.tensor([[0.0], [1.0], [3.0], [3.5]])
    targets = torch.tensor([0, 0, 1, 1])
    # d+ is 1, 1, 0.5, 0.5 and d- is 3, 2, 2, 2.5: with margin 1.25 only the second falls short, by 0.25
    assert Triplet(1.25)(features, targets).item() == pytest.approx(0.25 / 4, abs=1e-5)
    soft = sum(math.log1p(math.exp(g)) for g in (-2.0, -1.0, -1.5, -2.0)) / 4
    assert Triplet(None)(features, targets).item() == pytest.approx(soft, abs=1e-5)


@pytest.mark.parametrize("margin", [0.3, 2.0, None])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [None, [0.0, 1.0, 0.5, 2.0, 1.0, 0.1, 1.0, 1.0]])
def test_against_a_loop(margin: float | None, normalize: bool, weights: list[float] | None) -> None:
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
    targets = [0, 0, 0, 1, 1, 2, 7, 7]
    loss = Triplet(margin, normalize)(
        features, torch.tensor(targets), None if weights is None else torch.tensor(weights)
    )
    expected = by_loop(features, targets, margin, normalize, weights or [1.0] * 8)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("margin", [0.3, None])
def test_without_another_label_there_is_nothing_to_learn(margin: float | None) -> None:
    features = torch.randn(4, 3, requires_grad=True)
    loss = Triplet(margin)(features, torch.zeros(4, dtype=torch.int64))
    assert loss.item() == 0.0
    loss.backward()
    assert features.grad is not None and torch.equal(features.grad, torch.zeros(4, 3))


@pytest.mark.parametrize("margin", [0.3, None])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_gradient_is_finite_at_distance_0(margin: float | None, normalize: bool) -> None:
    features = torch.ones(6, 4, requires_grad=True)  # all in one place, with two labels
    loss = Triplet(margin, normalize)(features, torch.tensor([0, 0, 0, 1, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) if margin is None else 0.3, abs=1e-4)
    assert features.grad is not None and torch.isfinite(features.grad).all()


def test_gradient_step_brings_the_positive_nearer() -> None:
    features = torch.tensor([[0.0], [2.0], [1.0]], requires_grad=True)
    targets = torch.tensor([0, 0, 1])
    loss = Triplet(None)(features, targets)
    loss.backward()
    assert features.grad is not None
    moved = (features - 0.1 * features.grad).detach()
    assert (moved[1] - moved[0]).abs() < 2.0
    assert Triplet(None)(moved, targets) < loss


def test_distances_of_half_precision_features_under_autocast() -> None:
    a = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distances = euclidean(a, a)
    assert distances.dtype == torch.float32
    expected = torch.tensor([[math.dist(x, y) for y in a.tolist()] for x in a.tolist()])
    assert torch.allclose(distances, expected, atol=5e-3)
