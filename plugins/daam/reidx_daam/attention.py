"""Attention masks of a feature map: one number in (0, 1) per entry, per channel or per position."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["harmonious", "se", "spatial", "cbam", "conv", "none"]


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


def last(c_in: int, c_out: int, bias: float, kernel: int = 1) -> nn.Conv2d:
    """The convolution before a mask's sigmoid, with an initial bias of ``bias``.

    No ReLU follows it: with one, the mask could not fall below 1/2.
    """
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return conv


class Harmonious(nn.Module):
    """A mask (B,C,H,W): a spatial gate times a channel gate, mixed by a 1x1 convolution (harmonious attention).

    Spatial gate: mean over channels, 3x3 convolution of stride 2, interpolation to the map's size, 1x1 convolution. Channel
    gate: mean over positions, two 1x1 convolutions with C/``reduction`` channels between them. All four convolutions have
    BatchNorm and ReLU.
    """

    def __init__(self, channels: int, reduction: int, bias_init: float) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.coarse, self.place = ConvNorm(1, 1, 3, stride=2), ConvNorm(1, 1)
        self.channel = nn.Sequential(ConvNorm(channels, inner), ConvNorm(inner, channels))
        self.mix = last(channels, channels, bias_init)

    def forward(self, maps: Tensor) -> Tensor:
        coarse = self.coarse(maps.mean(1, keepdim=True))
        place = self.place(F.interpolate(coarse, size=maps.shape[-2:], mode="bilinear"))
        channel = self.channel(maps.mean((2, 3), keepdim=True))
        return torch.sigmoid(self.mix(place * channel))


class SqueezeExcite(nn.Module):
    """A channel mask (B,C,1,1) from the map's mean (Hu et al., CVPR 2018), with ``maximum`` also from its maximum."""

    def __init__(self, channels: int, reduction: int, bias_init: float, maximum: bool = False) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.maximum = maximum
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.excite = last(inner, channels, bias_init)

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.squeeze(maps.mean((2, 3), keepdim=True)))
        if self.maximum:
            inner = inner + F.relu(self.squeeze(maps.amax((2, 3), keepdim=True)))
        return torch.sigmoid(self.excite(inner))


class Places(nn.Module):
    """A spatial mask (B,1,H,W): a 7x7 convolution of the mean and the maximum over channels (Woo et al., ECCV 2018)."""

    def __init__(self, bias_init: float) -> None:
        super().__init__()
        self.conv = last(2, 1, bias_init, kernel=7)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(torch.cat([maps.mean(1, keepdim=True), maps.amax(1, keepdim=True)], 1)))


class ChannelsThenPlaces(nn.Module):
    """A mask (B,C,H,W): a channel mask times the spatial mask of the map after the channel mask (CBAM, ECCV 2018)."""

    def __init__(self, channels: int, reduction: int, bias_init: float) -> None:
        super().__init__()
        # each mask begins at the square root of the product's initial value
        half = -math.log(math.sqrt(1.0 + math.exp(-bias_init)) - 1.0)
        self.channels = SqueezeExcite(channels, reduction, half, maximum=True)
        self.places = Places(half)

    def forward(self, maps: Tensor) -> Tensor:
        channels = self.channels(maps)
        return channels * self.places(channels * maps)


class Pointwise(nn.Module):
    """A mask (B,C,H,W): two 1x1 convolutions with C/``reduction`` channels, BatchNorm and ReLU between them."""

    def __init__(self, channels: int, reduction: int, bias_init: float) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.inner, self.mix = ConvNorm(channels, inner), last(inner, channels, bias_init)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.sigmoid(self.mix(self.inner(maps)))


class Half(nn.Module):
    """A mask (B,1,1,1) of 1/2 everywhere: no attention."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.new_full((maps.shape[0], 1, 1, 1), 0.5)


def attention_of(kind: Kind, channels: int, reduction: int = 16, bias_init: float = 1.0) -> nn.Module:
    """Build the attention module of a ``kind`` for maps (B,C,H,W); its masks begin near sigmoid(``bias_init``).

    Raises :class:`ValueError` for a reduction below 1.
    """
    if reduction < 1:
        raise ValueError(f"reduction is {reduction}; it divides the number of channels, so it must be at least 1.")
    if kind == "none":
        return Half()
    if kind == "spatial":
        return Places(bias_init)
    made = {"harmonious": Harmonious, "se": SqueezeExcite, "cbam": ChannelsThenPlaces, "conv": Pointwise}[kind]
    return made(channels, reduction, bias_init)
