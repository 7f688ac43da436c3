"""The hybrid memory: a unit vector per image, and scores per class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.memories import Memory
from reidx.memories.moving import move_rows


class HybridMemory(Memory):
    """One row per image, averaged per class and kept across relabellings.

    Returns the mean similarity (B,K) of features (B,D) to the images of each class.

    s_c = 1/|c| Σ_{j in c} f·r_j with f at unit length, which is f times the mean of the rows of c. Single-image classes
    (un-clustered images) count as much as clusters. The mean is not normalised again, so a loose cluster scores lower. Rows r
    (N,D) are set once, from the first features; a later reset only takes the new labels. After a step, for each instance in
    the order of the batch, r_i ← normalize(m r_i + (1−m) f) with m = ``momentum``; ``index`` gives i and may repeat. The
    class means of the next step use the updated rows. Outliers (−1) belong to no class, but their rows are updated too.
    Features get gradients, rows do not; scores stay in float32 in mixed precision. Source: SpCL (Ge et al., NeurIPS 2020),
    hybrid memory.

    ``images`` are the rows, which a labelling can cluster (``labels: {memory: NAME}``).

    Raises :class:`ValueError` for a momentum outside [0, 1].
    """

    outliers = "drop"
    rows: Tensor
    members: Tensor
    starts: Tensor

    def __init__(self, dim: int, momentum: float = 0.2) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie between 0 and 1.")
        self.momentum = momentum
        self.register_buffer("rows", torch.zeros(0, dim))
        # the images of class 0, then those of class 1, …, and the position where each class starts
        self.register_buffer("members", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("starts", torch.zeros(0, dtype=torch.int64))

    @property
    def needs_features(self) -> bool:  # type: ignore[override]
        """True before the first reset, which sets the rows."""
        return not len(self.rows)

    @property
    def images(self) -> Tensor:
        """The unit row (N,D) of every image; empty before the first reset."""
        return self.rows

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        if self.needs_features:
            assert features is not None
            self.rows = F.normalize(features.float())
        sizes = torch.bincount(labels[labels >= 0])
        self.members = torch.argsort(labels, stable=True)[int((labels < 0).sum()) :]
        self.starts = sizes.cumsum(0) - sizes

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            means = F.embedding_bag(self.members, self.rows, self.starts, mode="mean")
            return F.normalize(features.float(), dim=-1) @ means.T

    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        move_rows(self.rows, features, index, self.momentum)
