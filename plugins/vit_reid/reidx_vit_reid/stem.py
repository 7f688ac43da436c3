"""Stems of vision transformers: from images to patch embeddings."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

CHANNELS = 64
"""Channels of the convolutional stem."""


class IBN(nn.Module):
    """InstanceNorm of the first half of the channels, BatchNorm of the second (IBN-a, Pan et al., ECCV 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, maps: Tensor) -> Tensor:
        first, second = maps.split([self.IN.num_features, self.BN.num_features], dim=1)
        return torch.cat([self.IN(first), self.BN(second)], dim=1)


class Stem(nn.Module):
    """Embeddings (B,D,h,w) of the patches of images (B,3,H,W).

    ``kind`` is ``patch``, one convolution whose kernel and stride are the patch, or ``ics``: a 7x7 convolution of stride 2 and
    two of 3x3, with IBN, IBN and BatchNorm, and then the convolution of the patches at half the resolution (Luo et al. 2021,
    IBN-based convolution stem).
    """

    def __init__(self, kind: Literal["patch", "ics"], width: int, patch: int) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Identity()
        channels = 3
        if kind == "ics":
            channels, patch = CHANNELS, patch // 2
            self.conv = nn.Sequential(
                nn.Conv2d(3, channels, 7, 2, 3, bias=False),
                IBN(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
                IBN(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
        self.proj = nn.Conv2d(channels, width, patch, patch)
        if kind == "patch":
            nn.init.normal_(self.proj.weight, std=math.sqrt(2.0 / (patch * patch * width)))

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.conv(images))
