"""Losses whose targets come from a teacher: soft cross-entropy over classes and soft triplet over distances."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.losses.cross_entropy import weighted_mean
from reidx.losses.triplet import euclidean


class SoftCrossEntropy(nn.Module):
    """Cross-entropy with a teacher's predictions as targets.

    Returns the batch mean of −Σ_k softmax(teacher_scores)_k log softmax(scores)_k; both (B,K), without a temperature.

    ``teacher_scores`` are only targets: no gradient flows into them. ``weights`` (B,) multiply the images' losses. Source:
    MMT (Ge et al., ICLR 2020), soft classification loss.
    """

    def forward(self, scores: Tensor, teacher_scores: Tensor, weights: Tensor | None = None) -> Tensor:
        expected = teacher_scores.detach().float().softmax(1)
        return weighted_mean(-(expected * scores.float().log_softmax(1)).sum(1), weights)


class SoftTriplet(nn.Module):
    """A triplet loss with a teacher's distances as soft targets.

    Returns the batch mean of −Σ_s q_s log p_s over s = (positive, negative), with p = softmax(d⁺, d⁻) and q the teacher's.

    In ``features`` (B,D), d⁺ is the Euclidean distance from an image to the farthest image with the same label, d⁻ the
    distance to the nearest image with another label. The teacher's two distances are to the same two images, in
    ``teacher`` (B,E): only the student selects the pair. No gradient flows into ``teacher``. With q = (0, 1) the loss is
    the soft form of :class:`Triplet`. An image without an image of another label in the batch contributes 0. ``weights``
    (B,) multiply the images' losses. Source: MMT (Ge et al., ICLR 2020), soft triplet loss.
    """

    def forward(
        self, features: Tensor, teacher: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        distances, same = euclidean(features, features), targets[:, None] == targets
        farthest = distances.detach().masked_fill(~same, -1.0).argmax(1)
        nearest = distances.detach().masked_fill(same, float("inf")).argmin(1)
        compared = torch.stack([farthest, nearest], 1)
        with torch.no_grad():
            expected = euclidean(teacher, teacher).gather(1, compared).softmax(1)
        losses = -(expected * F.log_softmax(distances.gather(1, compared), 1)).sum(1)
        return weighted_mean(losses * ~same.all(1), weights)
