"""The contrast with the other modality: a loop, a value by hand, images without a match, and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from reidx_usl_vi.losses import CrossModalityContrast
from torch import Tensor


def naive(scores: Tensor, others: Tensor, temperature: float) -> float:
    losses = []
    for row, other in zip(scores.tolist(), others.tolist()):
        if other >= 0:
            total = sum(math.exp(score / temperature) for score in row)
            losses.append(-math.log(math.exp(row[other] / temperature) / total))
    return sum(losses) / len(losses)


def test_loss_equals_a_loop() -> None:
    scores = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    others = torch.arange(12) % 6 - 1
    assert CrossModalityContrast(0.3)(scores, others).item() == pytest.approx(naive(scores, others, 0.3), rel=1e-5)


def test_loss_by_hand() -> None:
    # exp(0.05 · ln 3 / 0.05) = 3 against 1: −log(3/4); the second image has no match
    scores = torch.tensor([[0.05 * math.log(3), 0.0], [0.7, 0.1]])
    assert CrossModalityContrast()(scores, torch.tensor([0, -1])).item() == pytest.approx(math.log(4 / 3), rel=1e-6)


def test_images_without_a_match_get_no_gradient() -> None:
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    others = torch.tensor([2, -1, 0, -1])
    CrossModalityContrast(0.5)(scores, others).backward()
    assert scores.grad is not None
    assert (scores.grad[others < 0] == 0).all() and (scores.grad[others >= 0] != 0).all()
    softmax = (scores.detach() / 0.5).softmax(1)
    softmax[[0, 2], [2, 0]] -= 1
    assert torch.allclose(scores.grad[[0, 2]], softmax[[0, 2]] / 0.5 / 2, atol=1e-6)


def test_batch_without_any_match_costs_nothing() -> None:
    scores = torch.randn(4, 3).requires_grad_()
    loss = CrossModalityContrast()(scores, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0 and scores.grad is not None and (scores.grad == 0).all()


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        CrossModalityContrast(0.0)
