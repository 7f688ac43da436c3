"""The two losses whose targets are a teacher's: what class an image is of, and which of two others it is nearer to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.losses.cross_entropy import weighted_mean
from reidx.losses.triplet import euclidean


class SoftCrossEntropy(nn.Module):
    """Cross-entropy with a teacher's predictions as targets.

    The batch mean of −Σ_k softmax(teacher_scores)_k log softmax(scores)_k; both (B,K), without a temperature.

    ``teacher_scores`` are only targets: no gradient flows into them. ``weights`` (B,) multiply the images' losses (MMT, LF2
    section 6.1).
    """

    def forward(self, scores: Tensor, teacher_scores: Tensor, weights: Tensor | None = None) -> Tensor:
        expected = teacher_scores.detach().float().softmax(1)
        return weighted_mean(-(expected * scores.float().log_softmax(1)).sum(1), weights)


class SoftTriplet(nn.Module):
    """A triplet loss with a teacher's distances as soft targets.

    The batch mean of −Σ_s q_s log p_s over s = (positive, negative), with p = softmax(d⁺, d⁻) and q the teacher's.

    d⁺ is the Euclidean distance of an image to the farthest of its own label in ``features`` (B,D), d⁻ that to the nearest
    of another. The teacher's two distances are to the same two images, in ``teacher`` (B,E): the student alone chooses
    whom to compare. No gradient flows into ``teacher``. With q = (0, 1) it is the soft form of :class:`Triplet`. An image
    without one of another label in the batch contributes 0, ``weights`` (B,) multiply the images' losses (MMT, LF2
    section 6.1).
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
