"""GSL's four forms against plain loops and against values by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reidx_global_patch.gsl import GSL
from torch import Tensor

from reidx.errors import ConfigError
from reidx.losses.cross_entropy import MemoryContrast
from reidx.registry.build import build

N, D = 30, 6
NEIGHBOURS = torch.tensor([[4, 9, 11, -1], [2, -1, -1, -1], [-1, -1, -1, -1], [0, 28, 29, 7], [12, 3, -1, -1]])
TARGETS = torch.tensor([3, 8, 1, 20, 29])


def unit(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, D, generator=torch.Generator().manual_seed(seed)))


def cosines() -> Tensor:
    return unit(5, 1) @ unit(N, 2).T


def one(form: str, r: list[float], own: int, credible: list[int], beta: float, scale: float, keep_own: bool,
        weights: list[float], delta: float = 5.0, ratio: float = 0.2) -> float:  # fmt: skip
    """The loss of one image, slot by slot."""
    slots = [j for j in range(len(r)) if keep_own or j != own]
    if form == "mmcl":
        positive = sorted({*credible, *([own] if keep_own else [])})
        others = sorted((r[j] for j in range(len(r)) if j not in positive and j != own), reverse=True)
        hard = others[: max(1, int(ratio * len(others)))]
        if not positive:
            return 0.0
        pull = sum((1 - r[j]) ** 2 for j in positive) / len(positive)
        return delta * pull + sum((1 + value) ** 2 for value in hard) / len(hard)
    if not credible:
        return 0.0
    if form == "pedal":  # with the distances of unit vectors, as in its formula
        def kernel(j: int) -> float:
            return math.exp(-scale * (2 - 2 * r[j]))
    else:
        def kernel(j: int) -> float:
            return math.exp(r[j] / beta)
    total = sum(kernel(j) for j in slots)
    if form == "mean_log":
        return -sum(w * math.log(kernel(j) / total) for j, w in zip(credible, weights))
    return -math.log(sum(kernel(j) for j in credible) / total)


@pytest.mark.parametrize("form", ["mean_log", "log_sum", "pedal", "mmcl"])
@pytest.mark.parametrize("exclude_self", ["auto", True, False])
def test_each_form_against_a_loop(form: str, exclude_self: Any) -> None:
    keep_own = form in ("mean_log", "mmcl") if exclude_self == "auto" else not exclude_self
    expected = 0.0
    for row, own, listed in zip(cosines().double().tolist(), TARGETS.tolist(), NEIGHBOURS.tolist()):
        credible = [j for j in listed if j >= 0]
        alike = [1 / len(credible)] * len(credible) if credible else []
        expected += one(form, row, own, credible, 0.1, 7.0, keep_own, alike) / len(TARGETS)
    loss = GSL(form, beta=0.1, scale=7.0, hard_ratio=0.2, exclude_self=exclude_self)  # type: ignore[arg-type]
    assert loss(cosines(), TARGETS, NEIGHBOURS).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_weights_by_similarity(gamma: float) -> None:
    expected = 0.0
    for row, own, listed in zip(cosines().double().tolist(), TARGETS.tolist(), NEIGHBOURS.tolist()):
        credible = [j for j in listed if j >= 0]
        near = [max(row[j], 0.0) ** gamma for j in credible]
        if not any(near):
            near = [1.0] * len(credible)
        expected += one("mean_log", row, own, credible, 0.05, 0, True, [w / sum(near) for w in near]) / 5
    scores = cosines().requires_grad_()
    value = GSL(weighting="similarity", gamma=gamma)(scores, TARGETS, NEIGHBOURS)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    # weights have no gradient: it equals that of the cross-entropy with these weights as targets, including β
    gradient = torch.autograd.grad(value, scores)[0]
    p = (scores.detach() / 0.05).softmax(1)
    near = torch.zeros(5, N)
    for b, listed in enumerate(NEIGHBOURS.tolist()):
        for j in listed:
            if j >= 0:
                near[b, j] = max(scores[b, j].item(), 0.0) ** gamma
        if near[b].sum() == 0:
            near[b, [j for j in listed if j >= 0]] = 1.0
    total = near.sum(1, keepdim=True)
    by_hand = torch.where(total > 0, p - near / total.clamp(min=1e-9), 0.0) / 0.05 / 5
    assert torch.allclose(gradient, by_hand, atol=1e-5)


@pytest.mark.parametrize(("beta", "expected"), [(0.05, 2.027225), (1.0, 1.599507)])
def test_sum_with_memory_classifier_is_ecn(beta: float, expected: float) -> None:
    # M = I, g = (.8, .6, 0, 0), own slot 0; ECN's k = 2 includes the own slot, the other is slot 1 with weight 1/2
    scores, own = torch.tensor([[0.8, 0.6, 0.0, 0.0]]), torch.tensor([0])
    total = MemoryContrast(beta)(scores, own) + 0.5 * GSL(beta=beta)(scores, own, torch.tensor([[1, -1]]))
    assert total.item() == pytest.approx(expected, abs=1e-6)


def test_pedal_form_equals_rescaled_log_sum() -> None:
    pedal, log_sum = GSL("pedal", scale=10.0), GSL("log_sum", beta=0.05)
    given = (cosines(), TARGETS, NEIGHBOURS)
    assert pedal(*given).item() == pytest.approx(log_sum(*given).item(), rel=1e-6)


@pytest.mark.parametrize("form", ["mean_log", "log_sum", "pedal", "mmcl"])
def test_images_without_samples_have_zero_loss(form: str) -> None:
    scores = cosines().requires_grad_()
    nobody = torch.full((5, 3), -1)
    loss = GSL(form, exclude_self=True)  # type: ignore[arg-type]
    value = loss(scores, TARGETS, nobody)
    assert value.item() == 0.0
    gradient = torch.autograd.grad(value, scores)[0]
    assert torch.equal(gradient, torch.zeros_like(gradient))
    # an empty row keeps the gradients of other rows finite
    value = loss(scores, TARGETS, NEIGHBOURS)
    gradient = torch.autograd.grad(value, scores)[0]
    assert torch.isfinite(gradient).all()
    assert not gradient[2].any()
    assert gradient[0].any()


def test_mmcl_draws_to_own_slot() -> None:
    value = GSL("mmcl", hard_ratio=0.2)(cosines()[:1], TARGETS[:1], torch.full((1, 2), -1))
    expected = one("mmcl", cosines()[0].double().tolist(), 3, [], 0, 0, True, [], ratio=0.2)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_own_slot_is_no_credible_sample() -> None:
    listed = torch.tensor([[3, 4]])
    for form in ("mean_log", "log_sum", "mmcl"):
        ours = GSL(form)(cosines()[:1], TARGETS[:1], listed)  # type: ignore[arg-type]
        assert torch.equal(ours, GSL(form)(cosines()[:1], TARGETS[:1], torch.tensor([[4, -1]])))  # type: ignore[arg-type]


def test_one_sample_satisfies_only_log_sum() -> None:
    scores = torch.tensor([[0.0, 1.0, -1.0, 0.0]])
    own, two = torch.tensor([0]), torch.tensor([[1, 2]])
    assert GSL("log_sum")(scores, own, two) < 0.01
    assert GSL("mean_log")(scores, own, two) > 10


@pytest.mark.parametrize("form", ["mean_log", "log_sum", "pedal", "mmcl"])
def test_training_draws_features_to_samples(form: str) -> None:
    slots = unit(N, 2)
    features = unit(5, 1).requires_grad_()
    optimizer = torch.optim.SGD([features], lr=0.1)

    def near() -> float:
        """The mean cosine with the credible samples; for the forms with one sum, with the nearest of them."""
        similar = F.normalize(features.detach()) @ slots.T
        found = [similar[b, [j for j in row if j >= 0]] for b, row in enumerate(NEIGHBOURS.tolist()) if row[0] >= 0]
        return float(sum(own.max() if form in ("log_sum", "pedal") else own.mean() for own in found) / len(found))

    before = near()
    for _ in range(60):
        optimizer.zero_grad()
        GSL(form)(F.normalize(features) @ slots.T, TARGETS, NEIGHBOURS).backward()  # type: ignore[arg-type]
        optimizer.step()
    assert near() > before + 0.12  # 0.25 to 0.63 for four seeds, exactly 0 at a rate of 0


@pytest.mark.parametrize(
    "keys",
    [{"beta": 0.0}, {"scale": -1.0}, {"delta": 0}, {"hard_ratio": 0.0}, {"form": "mean"}, {"gamma": 0},
     {"form": "mmcl", "weighting": "similarity"}],
)  # fmt: skip
def test_invalid_value_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(keys))):
        build("loss", {"type": "global_patch.GSL", **keys})
