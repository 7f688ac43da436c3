"""Contrast of images with the clusters of the other modality."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CrossModalityContrast(nn.Module):
    """Contrast of features with the memory of another labelling (InfoNCE).

    The loss is −log softmax(scores / ``temperature``)_m, averaged over the images that have a match m.

    m is the image's entry of ``other_labels`` (B,), the column of the matched cluster; images with −1 do not count. Without
    any match the loss is 0. ``scores`` (B,L) are those of the other labelling's memory. Source: PGM (Wu and Ye, CVPR 2023),
    cross-modality term of the alternate learning.

    Raises :class:`ValueError` for a temperature that is not positive.
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        if temperature <= 0.0:
            raise ValueError(f"temperature is {temperature}; it must be positive.")
        self.temperature = temperature

    def forward(self, scores: Tensor, other_labels: Tensor) -> Tensor:
        total = F.cross_entropy(scores.float() / self.temperature, other_labels, ignore_index=-1, reduction="sum")
        return total / (other_labels >= 0).sum().clamp(min=1)
