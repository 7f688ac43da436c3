"""The patch-based discriminative loss (PEDAL): draws a patch to the nearest patches of other images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PEDAL(nn.Module):
    """Attraction of each patch to the nearest patches of other images.

    -log Σ_{j∈K} e^{s·r_j} / Σ_{j≠i} e^{s·r_j}, the mean over patches and batch; 0 or more.

    ``scores`` r (B,N,P) are the negative squared distances to a :class:`PatchMemory` (B,N for a single patch), s is
    ``scale``, K the ``k`` slots nearest to the patch. The own slot i (``index``) is in neither sum, so the patch is drawn to
    those of other images (PAUL, CVPR 2019). Sums are in float32, because s·r reaches -60.

    Raises :class:`ValueError` for a ``scale`` or ``k`` that is not positive.
    """

    accepts_parts = frozenset({"scores"})
    column_meaning = "images"

    def __init__(self, scale: float = 15.0, k: int = 10) -> None:
        super().__init__()
        if scale <= 0.0 or k < 1:
            raise ValueError(f"scale is {scale}, k is {k}; both must be positive.")
        self.scale, self.k = scale, k

    def forward(self, scores: Tensor, index: Tensor) -> Tensor:
        scores = scores.float().unsqueeze(2) if scores.ndim == 2 else scores.float()
        logits = self.scale * scores.transpose(1, 2)  # (B,P,N)
        own = index[:, None, None].expand(-1, logits.shape[1], 1)
        others = logits.scatter(2, own, -torch.inf)
        k = min(self.k, others.shape[2] - 1)
        if k < 1:  # there is only one image
            return 0.0 * scores.sum()
        return (others.logsumexp(2) - others.topk(k, dim=2).values.logsumexp(2)).mean()
