"""Cross-entropy against loops, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.losses.cross_entropy import CrossEntropy, MemoryContrast, weighted_mean


def by_loop(scores: Tensor, targets: list[list[float]], temperature: float, weights: list[float] | None = None) -> float:
    """Return the mean over images of −Σ q log(e^s / Σ e^s)."""
    total = 0.0
    for b, row in enumerate(scores.tolist()):
        exponentials = [math.exp(s / temperature) for s in row]
        loss = -sum(q * math.log(e / sum(exponentials)) for q, e in zip(targets[b], exponentials))
        total += loss * (weights[b] if weights else 1.0)
    return total / len(scores)


def one_hot(targets: Tensor, classes: int, smoothing: float) -> list[list[float]]:
    return [
        [(1 - smoothing) * (k == t) + smoothing / classes for k in range(classes)] for t in targets.tolist()
    ]


SCORES = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [-1.0, 3.0, 1.0], [0.0, 0.0, 0.0]])
TARGETS = torch.tensor([0, 2, 1, 1])


def test_by_hand() -> None:
    # two classes, scores ln 3 and 0: the right class has probability 3/4
    scores = torch.tensor([[math.log(3.0), 0.0]])
    assert CrossEntropy()(scores, torch.tensor([0])).item() == pytest.approx(math.log(4 / 3))
    # with smoothing 0.2: 0.9 of that loss plus 0.1 of ln 4
    smoothed = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert CrossEntropy(smoothing=0.2)(scores, torch.tensor([0])).item() == pytest.approx(smoothed)
    # at temperature 1/2 the odds are squared: 9/10
    assert CrossEntropy(temperature=0.5)(scores, torch.tensor([0])).item() == pytest.approx(math.log(10 / 9))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 0.0, 2.0]])
def test_against_a_loop(smoothing: float, temperature: float, weights: list[float] | None) -> None:
    loss = CrossEntropy(smoothing, temperature)(SCORES, TARGETS, None if weights is None else torch.tensor(weights))
    expected = by_loop(SCORES, one_hot(TARGETS, 3, smoothing), temperature, weights)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_soft_targets_are_used_unsmoothed() -> None:
    soft = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.1, 0.8, 0.1]])
    weights = [0.5, 1.0, 1.0, 3.0]
    loss = CrossEntropy(smoothing=0.4, temperature=0.5)(SCORES, TARGETS, torch.tensor(weights), soft)
    assert loss.item() == pytest.approx(by_loop(SCORES, soft.tolist(), 0.5, weights), rel=1e-5)


def test_the_divisor_is_the_batch_not_the_weights() -> None:
    assert weighted_mean(torch.tensor([4.0, 8.0]), torch.tensor([0.5, 0.0])).item() == 1.0
    assert weighted_mean(torch.tensor([4.0, 8.0]), None).item() == 6.0


def test_an_image_of_weight_0_has_no_gradient() -> None:
    scores = SCORES.clone().requires_grad_()
    CrossEntropy()(scores, TARGETS, torch.tensor([1.0, 0.0, 1.0, 1.0])).backward()
    assert scores.grad is not None
    assert (scores.grad.abs().sum(1) > 0).tolist() == [True, False, True, True]


def test_the_contrast_is_info_nce_over_the_rows() -> None:
    torch.manual_seed(0)
    features, rows = F.normalize(torch.randn(4, 5)), F.normalize(torch.randn(3, 5))
    loss = 0.0
    for f, y in zip(features, TARGETS.tolist()):
        similar = [sum(a * b for a, b in zip(f.tolist(), c.tolist())) for c in rows]
        loss -= math.log(math.exp(similar[y] / 0.05) / sum(math.exp(s / 0.05) for s in similar))
    assert MemoryContrast()(features @ rows.T, TARGETS).item() == pytest.approx(loss / 4, rel=1e-5)


def test_half_precision_scores_are_summed_in_float32() -> None:
    loss = CrossEntropy(temperature=0.05)(SCORES.bfloat16(), TARGETS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_loop(SCORES, one_hot(TARGETS, 3, 0.0), 0.05), rel=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_outside_0_and_1_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"smoothing is {smoothing}"):
        CrossEntropy(smoothing)


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        MemoryContrast(temperature=0.0)


@pytest.mark.parametrize("soft", [False, True])
def test_loss_over_parts_is_their_mean(soft: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    scores, weights = torch.randn(4, 3, 5, generator=generator), torch.tensor([0.5, 1.0, 0.0, 2.0])
    soft_targets = torch.softmax(torch.randn(4, 3, generator=generator), 1) if soft else None
    expected = 0.0
    for part in range(5):
        targets = soft_targets.tolist() if soft_targets is not None else one_hot(TARGETS, 3, 0.1)
        expected += by_loop(scores[:, :, part], targets, 0.5, weights.tolist()) / 5
    loss = CrossEntropy(smoothing=0.1, temperature=0.5)
    assert loss(scores, TARGETS, weights, soft_targets).item() == pytest.approx(expected, rel=1e-5)
