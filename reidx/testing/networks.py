"""Networks small enough for tests to inspect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.models.network import Network

CHANNELS = 4


class TinyBackbone(nn.Module):
    """Images (B,3,H,W) to a map (B,4,H,W): one 1x1 convolution, one BatchNorm. Counts its forward passes."""

    out_channels = CHANNELS
    nonnegative = False
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.calls: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        return self.norm(self.conv(images))


class TinyHead(nn.Module):
    """``embed`` and ``pooled`` (B,4), the mean over the map; ``embed`` is multiplied by a trained scale."""

    provides = frozenset({"embed", "pooled"})

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CHANNELS))
        self.dims = dict.fromkeys(self.provides, CHANNELS)

    def forward(self, maps: Tensor) -> Features:
        pooled = maps.mean((2, 3))
        return Features({"embed": pooled * self.scale, "pooled": pooled})


class TeachingHead(TinyHead):
    """A head whose ``embed`` also uses the teacher's map, if given."""

    def forward(self, maps: Tensor, teacher: Tensor | None = None) -> Features:
        pooled = maps.mean((2, 3))
        seen = pooled if teacher is None else pooled + 10.0 * teacher.mean((2, 3))
        return Features({"embed": seen * self.scale, "pooled": pooled})


def tiny_network(seed: int = 0, teaching: bool = False) -> Network:
    """A network of a :class:`TinyBackbone` and a :class:`TinyHead` (or :class:`TeachingHead`), weights by ``seed``."""
    torch.manual_seed(seed)
    return Network(TinyBackbone(), TeachingHead() if teaching else TinyHead())
