"""Pooling of a feature map (B,C,h,w) to a vector (B,C)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reidx.errors import ConfigError


class GeM(nn.Module):
    """Generalised mean, ``(mean(max(x, eps)^p))^(1/p)`` with one learnable exponent (Radenović et al., TPAMI 2019).

    p = 1 is the average of the clamped map, p → ∞ its maximum. Computed in fp32, since x^p exceeds the range of half
    precision.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), float(p)))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            powered = maps.float().clamp(min=self.eps).pow(self.p)
            return powered.mean(dim=(-2, -1)).pow(1.0 / self.p)


class Average(nn.Module):
    """The mean over the map."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(-2, -1))


class Maximum(nn.Module):
    """The maximum over the map."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.amax(dim=(-2, -1))


class AveragePlusMaximum(nn.Module):
    """The mean plus the maximum over the map."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(-2, -1)) + maps.amax(dim=(-2, -1))


POOLINGS: dict[str, type[nn.Module]] = {
    "gem": GeM,
    "avg": Average,
    "max": Maximum,
    "avg+max": AveragePlusMaximum,
}


def pooling(name: str) -> nn.Module:
    """Build a pooling module by its short name; raises :class:`ConfigError`, which lists the names."""
    if name not in POOLINGS:
        raise ConfigError(f"There is no pooling {name!r}; there are {', '.join(POOLINGS)}.")
    return POOLINGS[name]()
