"""Cross-entropy on scores, with hard, smoothed or soft targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of per-image losses (B,), each multiplied by its weight; plain mean without weights.

    The divisor is B, not the sum of weights: an image with a smaller weight lowers the weight of the batch.
    """
    return losses.mean() if weights is None else (losses * weights).mean()


class CrossEntropy(nn.Module):
    """Cross-entropy of scores with hard, smoothed or soft targets.

    The loss is −Σ_k q_k log softmax(scores / temperature)_k, averaged over the batch.

    q is the one-hot target, smoothed as (1−ε)·onehot + ε/K with ``smoothing`` = ε, or the soft targets (B,K) where a
    refiner gives them (these are not smoothed again). ``weights`` (B,) multiply the images' losses. With scores of parts
    (B,K,P), each part has the image's target, and the image's loss is the mean over parts.
    """

    accepts_parts = frozenset({"scores"})

    def __init__(self, smoothing: float = 0.0, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing is {smoothing}; it must lie in [0, 1).")
        if temperature <= 0.0:
            raise ValueError(f"temperature is {temperature}; it must be positive.")
        self.smoothing, self.temperature = smoothing, temperature

    def forward(
        self,
        scores: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        soft_targets: Tensor | None = None,
    ) -> Tensor:
        scores = scores.float() / self.temperature
        smoothing = self.smoothing
        if soft_targets is not None:
            targets, smoothing = soft_targets, 0.0
        if scores.ndim == 3:
            targets = targets[..., None].expand(*targets.shape, scores.shape[2])
        losses = F.cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
        return weighted_mean(losses.mean(1) if losses.ndim == 2 else losses, weights)


class MemoryContrast(CrossEntropy):
    """Contrast of features with the rows of a memory (InfoNCE).

    The contrastive loss over a memory: cross-entropy of ``similarity / temperature`` (InfoNCE over its rows).

    With unit features and unit rows, L = −log exp(f·c_y/τ) / Σ_k exp(f·c_k/τ) (Dai et al.,
    "Cluster Contrast", ACCV 2022).
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__(temperature=temperature)
