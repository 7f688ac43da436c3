"""PPLR's two losses: labels of the whole image refined by its parts, and label smoothing by agreement for the parts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PGLR(nn.Module):
    """Cross-entropy with labels refined by the parts' predictions.

    Returns the batch mean of the cross-entropy of ``scores`` (B,K) with the refined labels q.

    q = ``beta``·onehot + (1−``beta``)·Σ_p w_p·softmax(teacher_scores_p), w = softmax over the parts of ``agreement`` (B,P).
    ``teacher_scores`` (B,K,P) are the parts' scores; they are only targets, and no gradient flows into them. All scores are
    divided by ``temperature``: 1 for a classifier, lower for a memory that gives cosines. Source: PPLR (Cho et al., CVPR
    2022), part-guided label refinement.

    Raises :class:`ValueError` for a beta outside [0, 1] or a temperature that is not positive.
    """

    requires_parts = frozenset({"teacher_scores"})

    def __init__(self, beta: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta is {beta}; it must lie between 0 and 1.")
        self.beta, self.temperature = beta, _positive(temperature)

    def forward(self, scores: Tensor, teacher_scores: Tensor, targets: Tensor, agreement: Tensor) -> Tensor:
        with torch.no_grad():
            weights = agreement.float().softmax(1)
            guided = ((teacher_scores.float() / self.temperature).softmax(1) * weights[:, None]).sum(2)
            refined = self.beta * F.one_hot(targets, scores.shape[1]) + (1.0 - self.beta) * guided
        return F.cross_entropy(scores.float() / self.temperature, refined)


class AALS(nn.Module):
    """Label smoothing by the agreement of parts, for PPLR's part scores.

    Returns the mean over images and parts of a·CE(onehot, p) + (1−a)·KL(uniform ‖ p), with p = softmax of a part's scores.

    ``scores`` are (B,K,P), divided by ``temperature`` as in :class:`PGLR`; a is ``agreement`` (B,P). A part whose neighbours
    differ from those of the whole image is pulled towards uniform scores instead of its label. Source: PPLR (Cho et al., CVPR
    2022), agreement-aware label smoothing.

    Raises :class:`ValueError` for a temperature that is not positive.
    """

    requires_parts = frozenset({"scores"})

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = _positive(temperature)

    def forward(self, scores: Tensor, targets: Tensor, agreement: Tensor) -> Tensor:
        log_p = (scores.float() / self.temperature).log_softmax(1)
        cross_entropy = F.nll_loss(log_p, targets[:, None].expand_as(agreement), reduction="none")
        divergence = -math.log(scores.shape[1]) - log_p.mean(1)
        return (agreement * cross_entropy + (1.0 - agreement) * divergence).mean()


def _positive(temperature: float) -> float:
    if temperature <= 0.0:
        raise ValueError(f"temperature is {temperature}; it must be positive.")
    return temperature
