"""The plain head: its features, their widths and lengths, and its trainable parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reidx.fusions.global_pool import GlobalPool


def maps(images: int = 6, channels: int = 5) -> Tensor:
    return torch.rand(images, channels, 4, 2, generator=torch.Generator().manual_seed(1))


def by_hand(x: Tensor) -> Tensor:
    """Average over places, standardise each channel over the batch, and divide each row by its length, in loops."""
    pooled = [[sum(channel.flatten().tolist()) / channel.numel() for channel in image] for image in x]
    for c in range(len(pooled[0])):
        column = [row[c] for row in pooled]
        mean = sum(column) / len(column)
        variance = sum((v - mean) ** 2 for v in column) / len(column)
        for row in pooled:
            row[c] = (row[c] - mean) / (variance + 1e-5) ** 0.5
    return torch.tensor([[v / sum(w * w for w in row) ** 0.5 for v in row] for row in pooled])


def test_against_a_loop() -> None:
    head = GlobalPool(5, pool="avg")
    features = head(maps())
    assert torch.allclose(features["embed"], by_hand(maps()), atol=1e-5)
    assert torch.equal(features["embed"], features["global"])
    assert torch.allclose(features["pooled"], maps().mean((2, 3)))


@pytest.mark.parametrize("pool", ["gem", "avg", "max", "avg+max"])
@pytest.mark.parametrize("neck", [True, False])
def test_outputs_match_provides_and_dims(pool: str, neck: bool) -> None:
    head = GlobalPool(5, pool=pool, neck=neck)
    features = head(maps())
    assert set(features) == set(GlobalPool.provides) == set(head.dims)
    assert {name: t.shape for name, t in features.items()} == {n: (6, d) for n, d in head.dims.items()}


def test_embed_has_unit_or_its_own_length() -> None:
    assert torch.allclose(GlobalPool(5)(maps())["embed"].norm(dim=1), torch.ones(6), atol=1e-6)
    free = GlobalPool(5, neck=False, normalize=False)(maps())
    assert torch.equal(free["embed"], free["pooled"])
    assert not torch.allclose(free["embed"].norm(dim=1), torch.ones(6), atol=0.05)


def test_the_necks_bias_is_zero_and_stays_so() -> None:
    head = GlobalPool(5)
    assert isinstance(head.neck, nn.BatchNorm1d)
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 2  # the exponent and the neck's weight
    before = head.neck.weight.detach().clone(), head.pool.p.detach().clone()
    (head(maps())["embed"] * torch.randn(6, 5)).sum().backward()
    optimizer.step()
    assert torch.equal(head.neck.bias, torch.zeros(5))
    assert not torch.equal(head.neck.weight, before[0]) and not torch.equal(head.pool.p, before[1])


@pytest.mark.parametrize("pool", ["gem", "avg"])
def test_features_are_float32_under_autocast(pool: str) -> None:
    head = GlobalPool(5, pool=pool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = head(maps().bfloat16())["embed"]
    assert low.dtype == torch.float32
    assert torch.allclose(low, GlobalPool(5, pool=pool)(maps())["embed"], atol=0.1)
