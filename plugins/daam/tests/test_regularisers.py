"""The optional regularisers against loops, and their effect in training."""

from __future__ import annotations

import math

import pytest
import torch
from reidx_daam.regularisers import MaskMean, Orthogonality
from reidx_daam.split import AttentionSplit

from reidx.contracts import Features
from reidx.errors import ConfigError


def features(images: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    names = ("embed", "shared", "specific")
    return Features({name: torch.randn(images, 5, generator=generator).requires_grad_() for name in names})


def test_orthogonality_by_loops() -> None:
    source, target = features(3, 0), features(4, 1)
    squares = []
    for domain in (source, target):
        for a, b in zip(domain["shared"].tolist(), domain["specific"].tolist()):
            cosine = sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)
            squares.append(cosine**2)
    value = Orthogonality({"shared": 5, "specific": 5})(source, target)
    assert value.item() == pytest.approx(sum(squares) / 7, abs=1e-6)
    value.backward()
    for domain in (source, target):
        assert all(domain[name].grad is not None and domain[name].grad.abs().sum() > 0 for name in ("shared", "specific"))


def test_orthogonality_at_extremes() -> None:
    loss = Orthogonality({"shared": 2, "specific": 2})
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    one, other = Features({"embed": x, "shared": x, "specific": y}), Features({"embed": x, "shared": x, "specific": -2 * x})
    assert loss(one, one).item() == 0.0
    assert loss(other, other).item() == 1.0
    assert loss(one, other).item() == 0.5
    with pytest.raises(ConfigError, match="they have no angle"):
        Orthogonality({"shared": 2, "specific": 3})


def test_mask_mean_by_hand_and_refusal() -> None:
    given = torch.tensor([[0.9], [0.7]])
    assert MaskMean(0.5)(given).item() == pytest.approx(0.09)
    assert MaskMean(0.8)(given).item() == pytest.approx(0.0, abs=1e-9)
    for rho in (0.0, 1.0):
        with pytest.raises(ConfigError, match="rho is"):
            MaskMean(rho)


def test_mask_mean_restores_a_collapsed_attention() -> None:
    torch.manual_seed(0)
    head = AttentionSplit(8, branch="conv", attention="harmonious", bias_init=6.0, reduction=2)
    maps = torch.rand(8, 8, 4, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    assert head(maps)["mask"].mean() > 0.98
    assert head.notes()
    for _ in range(60):
        optimizer.zero_grad()
        MaskMean(0.5)(head(maps)["mask"]).backward()
        optimizer.step()
    assert head(maps)["mask"].mean().item() == pytest.approx(0.5, abs=0.1)
    assert not head.notes()
