"""The memory of image centres: the moving mean of each image's views."""

from __future__ import annotations

import torch
from torch import Tensor

from reidx.memories.base import Memory
from reidx_global_patch.slots import average


class ImageCentres(Memory):
    """Centres of each image's views, for the loss IPFL.

    The scores are the negative squared distances (B,N) to the images' centres; losses use ``centres`` (N,D) directly.

    A step moves the centre of each of its images to (1−μ) c + μ f̄, where f̄ is the mean of the image's views in the batch
    and μ = ``momentum``; the first centre of an image is f̄. PAUL updates it before the loss, with both views at once: wire it
    with ``when: before`` and ``stream: [first, second]``. Centres receive no gradient and survive relabellings. Source: PAUL,
    CVPR 2019.

    Raises :class:`ValueError` for a momentum outside [0, 1].
    """

    provides = frozenset({"centres"})
    column_meaning = "images"
    needs_features = False
    centres: Tensor
    seen: Tensor

    def __init__(self, dim: int, momentum: float = 0.1) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie between 0 and 1.")
        self.momentum = momentum
        self.register_buffer("centres", torch.zeros(0, dim))
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        if not len(self.centres):
            self.centres = self.centres.new_zeros(len(labels), self.centres.shape[1])
            self.seen = self.seen.new_zeros(len(labels))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            lengths = features.square().sum(1)[:, None] + self.centres.square().sum(1)
            return (2.0 * features @ self.centres.T - lengths).clamp(max=0.0)

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        share = torch.where(self.seen[index], self.momentum, 1.0)[:, None]
        average(self.centres, features, index, share)
        self.seen[index] = True
