"""PGLR and AALS against sums written out image by image, part by part, class by class."""

from __future__ import annotations

import math

import pytest
import torch
from reidx_pplr.losses import AALS, PGLR
from torch import Tensor


def randn(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(numbers: list[float]) -> list[float]:
    powers = [math.exp(x - max(numbers)) for x in numbers]
    return [x / sum(powers) for x in powers]


B, K, P = 5, 4, 3
TARGETS = torch.tensor([0, 3, 1, 1, 2])
AGREEMENT = torch.rand(B, P, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.5, 1.0), (0.5, 0.2), (1.0, 1.0)])
def test_pglr_softens_the_label_by_the_parts(beta: float, temperature: float) -> None:
    scores, part_scores = randn(B, K), randn(B, K, P, seed=1)
    total = 0.0
    for i in range(B):
        weights = softmax(AGREEMENT[i].tolist())
        by_part = [softmax([s / temperature for s in part_scores[i, :, p].tolist()]) for p in range(P)]
        predicted = softmax([s / temperature for s in scores[i].tolist()])
        for k in range(K):
            guided = sum(w * q[k] for w, q in zip(weights, by_part))
            target = beta * (1.0 if k == TARGETS[i] else 0.0) + (1 - beta) * guided
            total -= target * math.log(predicted[k])
    ours = PGLR(beta, temperature)(scores, part_scores, TARGETS, AGREEMENT)
    assert ours.item() == pytest.approx(total / B, rel=1e-5)


def test_pglr_by_hand() -> None:
    # two classes: scores (0, 0) give −log ½ for any target; scores (log 3, 0) are the probabilities ¾ and ¼
    parts = torch.tensor([[[math.log(4.0), 0.0], [0.0, 0.0]]])  # (1,2,2): part 0 predicts ⅘ and ⅕, part 1 ½ and ½
    even = torch.zeros(1, 2)
    target = torch.tensor([0])
    assert PGLR()(torch.zeros(1, 2), parts, target, even).item() == pytest.approx(math.log(2))
    # q = ½·(1, 0) + ½·½·((⅘, ⅕) + (½, ½)) = (0.825, 0.175)
    expected = -0.825 * math.log(0.75) - 0.175 * math.log(0.25)
    assert PGLR()(torch.tensor([[math.log(3.0), 0.0]]), parts, target, even).item() == pytest.approx(expected)
    # agreement (log 3, 0) weighs the parts ¾ and ¼: q = (½ + ½·(0.6 + 0.125), …) = (0.8625, 0.1375)
    expected = -0.8625 * math.log(0.75) - 0.1375 * math.log(0.25)
    weighed = torch.tensor([[math.log(3.0), 0.0]])
    assert PGLR()(torch.tensor([[math.log(3.0), 0.0]]), parts, target, weighed).item() == pytest.approx(expected)


def test_pglr_trains_only_the_whole() -> None:
    scores, part_scores = randn(B, K).requires_grad_(), randn(B, K, P, seed=1).requires_grad_()
    agreement = AGREEMENT.clone().requires_grad_()
    PGLR()(scores, part_scores, TARGETS, agreement).backward()
    assert scores.grad.abs().sum() > 0
    assert part_scores.grad is None
    assert agreement.grad is None


def test_pglr_with_beta_1_is_cross_entropy() -> None:
    scores = randn(B, K)
    plain = torch.nn.functional.cross_entropy(scores, TARGETS)
    assert torch.allclose(PGLR(1.0)(scores, randn(B, K, P), TARGETS, AGREEMENT), plain)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_wrong_beta_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=f"beta is {beta}"):
        PGLR(beta)


@pytest.mark.parametrize("loss", [PGLR, AALS])
def test_wrong_temperature_is_refused(loss: type[PGLR] | type[AALS]) -> None:
    with pytest.raises(ValueError, match=r"temperature is 0\.0; it must be positive"):
        loss(temperature=0.0)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_aals_mixes_the_label_and_indifference(temperature: float) -> None:
    scores = randn(B, K, P)
    total = 0.0
    for p in range(P):
        of_part = 0.0
        for i in range(B):
            predicted = softmax([s / temperature for s in scores[i, :, p].tolist()])
            a = AGREEMENT[i, p].item()
            divergence = sum((1 / K) * math.log((1 / K) / q) for q in predicted)
            of_part += a * -math.log(predicted[TARGETS[i]]) + (1 - a) * divergence
        total += of_part / B
    ours = AALS(temperature)(scores, TARGETS, AGREEMENT)
    assert ours.item() == pytest.approx(total / P, rel=1e-5)


def test_aals_by_hand() -> None:
    # one image, one part, p = (¾, ¼), label 0: CE = −log ¾, KL = ½·log(½/¾) + ½·log(½/¼) = ½·log(4/3)
    scores, label = torch.tensor([[[math.log(3.0)], [0.0]]]), torch.tensor([0])
    found = [AALS()(scores, label, torch.tensor([[a]])).item() for a in (1.0, 0.0, 0.25)]
    agreed, apart = math.log(4 / 3), 0.5 * math.log(4 / 3)
    assert found == pytest.approx([agreed, apart, 0.25 * agreed + 0.75 * apart])


def test_aals_trains_by_agreement() -> None:
    scores = randn(1, K, 2).requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=1.0)
    for _ in range(400):
        optimizer.zero_grad()
        AALS()(scores, torch.tensor([2]), torch.tensor([[1.0, 0.0]])).backward()
        optimizer.step()
    predicted = scores.detach().softmax(1)
    assert predicted[0, 2, 0] > 0.95
    assert torch.allclose(predicted[0, :, 1], torch.full((K,), 1 / K), atol=1e-2)
    assert AALS()(scores[..., 1:], torch.tensor([2]), torch.tensor([[0.0]])).item() == pytest.approx(0, abs=1e-3)


def test_gradients_of_each_part_are_its_own() -> None:
    scores = randn(B, K, P).requires_grad_()
    AALS()(scores, TARGETS, AGREEMENT).backward()
    together = scores.grad.clone()
    for p in range(P):
        alone = scores.detach()[..., p : p + 1].clone().requires_grad_()
        AALS()(alone, TARGETS, AGREEMENT[:, p : p + 1]).backward()
        assert torch.allclose(together[..., p], alone.grad[..., 0] / P, atol=1e-6)
