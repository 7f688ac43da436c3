"""Networks for images in another scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of RGB in 0..1 over ImageNet."""

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""The normalisation that changes nothing."""

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel."""


class Rescaled(nn.Module):
    """A network that expects images under the normalisation ``own``, for images under ``given``."""

    factor: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, own: Normalisation, given: Normalisation) -> None:
        super().__init__()
        mean, std, given_mean, given_std = (torch.tensor(row, dtype=torch.float64) for row in (*own, *given))
        self.network = network
        # image = given_std x + given_mean in 0..1, and (image - mean) / std is the network's input
        self.register_buffer("factor", (given_std / std).float().view(1, -1, 1, 1))
        self.register_buffer("offset", ((given_mean - mean) / std).float().view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        rows: Tensor = self.network(images * self.factor + self.offset)
        return rows


def normalised(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Images (B,3,H,W) in 0..1 with the mean subtracted, divided by the standard deviation."""
    mean, std = (images.new_tensor(row).view(1, -1, 1, 1) for row in normalisation)
    return (images - mean) / std
