"""The patch memory: one vector per patch of each image."""

from __future__ import annotations

import torch
from torch import Tensor

from reidx.memories.base import Memory
from reidx_global_patch.slots import average


class PatchMemory(Memory):
    """One slot for each patch of each image, for the loss PEDAL.

    The scores are the negative squared distances (B,N,P) of patches (B,P,D) to those of the N images, patch by patch.

    A slot m is the moving average of its image's patch, m ← (1−μ) m + μ f with μ = ``momentum``, without normalisation; for
    several views of an image, f is their mean. The first reset fills the slots with the images' features; later resets keep
    them. PAUL (CVPR 2019) updates them before the loss, with only the first view: wire it with ``when: before`` and
    ``stream``. Slots receive no gradient; distances are float32.

    Raises :class:`ValueError` for a momentum outside [0, 1].
    """

    requires_parts = frozenset({"features"})
    column_meaning = "images"
    rows: Tensor

    def __init__(self, dim: int, momentum: float = 0.1) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie between 0 and 1.")
        self.momentum = momentum
        self.register_buffer("rows", torch.zeros(0, 1, dim))

    @property
    def needs_features(self) -> bool:  # type: ignore[override]
        """True until the slots are filled."""
        return not len(self.rows)

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        if self.needs_features:
            assert features is not None
            self.rows = features.to(self.rows, copy=True)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            products = torch.einsum("bpd,npd->bnp", features, self.rows)
            lengths = features.square().sum(2)[:, None] + self.rows.square().sum(2)
            return (2.0 * products - lengths).clamp(max=0.0)

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        average(self.rows, features, index, self.momentum)
