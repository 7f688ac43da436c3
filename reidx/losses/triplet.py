"""The batch-hard triplet loss, with a margin or in its soft form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.losses.cross_entropy import weighted_mean


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (A,B) between rows, in fp32, with a finite gradient at distance 0."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        squared = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2.0 * a @ b.T
        return squared.clamp(min=1e-12).sqrt()


class Triplet(nn.Module):
    """Batch-hard triplet loss, with a margin or in its soft form.

    For each image, d⁺ is the distance to the farthest image with the same label and d⁻ to the nearest with another label.

    With a number as ``margin``, the loss is the mean of max(0, d⁺ − d⁻ + margin) (Hermans et al., 2017); with
    ``margin: null``, the mean of log(1 + exp(d⁺ − d⁻)), the soft form. Images without an image of another label in the
    batch contribute 0.
    """

    def __init__(self, margin: float | None = 0.3, normalize: bool = False) -> None:
        super().__init__()
        self.margin, self.normalize = margin, normalize

    def forward(self, features: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if self.normalize:
            features = F.normalize(features.float())
        distances = euclidean(features, features)
        same = targets[:, None] == targets[None]
        positive = distances.masked_fill(~same, 0.0).amax(1)
        negative = distances.masked_fill(same, float("inf")).amin(1)
        has_negative = ~same.all(1)
        gap = torch.where(has_negative, positive - negative, torch.zeros_like(positive))
        losses = F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)
        return weighted_mean(losses * has_negative, weights)
