"""Pooling against loops, and GeM between the mean and the maximum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reidx.errors import ConfigError
from reidx.models.pooling import POOLINGS, GeM, pooling


def maps() -> Tensor:
    return torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(0)) + 0.1


def by_loop(x: Tensor, p: float, eps: float = 1e-6) -> Tensor:
    out = torch.empty(x.shape[:2])
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = [max(v, eps) ** p for v in x[b, c].flatten().tolist()]
            out[b, c] = (sum(values) / len(values)) ** (1 / p)
    return out


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_against_a_loop(p: float) -> None:
    assert torch.allclose(GeM(p)(maps()), by_loop(maps(), p), atol=1e-6)


def test_gem_by_hand() -> None:
    # two cells, 1 and 3, p = 2: sqrt((1 + 9) / 2)
    assert GeM(2.0)(torch.tensor([[[[1.0, 3.0]]]])).item() == pytest.approx(math.sqrt(5))


def test_gem_lies_between_mean_and_maximum() -> None:
    assert torch.allclose(GeM(1.0)(maps()), maps().mean((2, 3)), atol=1e-6)
    # for 8 cells: below the maximum by a factor of at most 8^(1/60)
    assert torch.allclose(GeM(60.0)(maps()), maps().amax((2, 3)), rtol=1 - 8 ** (-1 / 60))


def test_values_below_eps_count_as_eps() -> None:
    out = GeM(3.0)(torch.tensor([[[[-5.0, 0.0]]]]))
    assert out.item() == pytest.approx(1e-6, rel=1e-3)


def test_the_gradient_of_p_is_the_slope() -> None:
    gem, h = GeM(3.0), 1e-3
    gem(maps()).sum().backward()
    slope = (by_loop(maps(), 3 + h).double().sum() - by_loop(maps(), 3 - h).double().sum()) / (2 * h)
    assert gem.p.grad is not None
    assert gem.p.grad.item() == pytest.approx(slope.item(), rel=1e-2)
    assert slope > 0  # a larger exponent moves it towards the maximum


def test_gem_stays_in_float32_under_autocast() -> None:
    x = maps().mul(100).bfloat16()  # bf16 would keep only three digits of 100³
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = GeM(3.0)(x)
    assert out.dtype == torch.float32
    assert torch.allclose(out, by_loop(x.float(), 3.0), rtol=1e-5)


def test_a_dead_map_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    gem = GeM()
    gem(x).sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(gem.p.grad).all()


@pytest.mark.parametrize(
    ("name", "value"), [("avg", 2.5), ("max", 4.0), ("avg+max", 6.5), ("gem", (100 / 4) ** (1 / 3))]
)
def test_each_pooling_of_1_2_3_4(name: str, value: float) -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert pooling(name)(x).item() == pytest.approx(value)


def test_unknown_pooling_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="no pooling 'mean'; there are gem, avg, max"):
        pooling("mean")
    assert pooling("gem") is not pooling("gem")
    assert set(POOLINGS) == {"gem", "avg", "max", "avg+max"}
