"""The cluster memory: one unit vector per cluster."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.memories.base import Memory, centroids
from reidx.memories.moving import move_rows


class ClusterMemory(Memory):
    """Cluster centroids, updated by the instances of each batch.

    Returns the cosines f·C (B,K) of features with unit centroids, f at unit length.

    At a reset C_k is the normalised mean of cluster k's unit features. After a step, for each instance in the order of the
    batch, C_y ← normalize(m C_y + (1−m) f) with m = ``momentum`` and f at unit length. With m = 0.1 the last instance of a
    cluster contributes nine tenths of its row, so the order matters. ``update: hard`` uses only one instance per cluster, the
    one least similar to its row before the step. Outliers (−1) update nothing. Early instances whose share of a row is below
    float32 rounding (with m = 0.1 all but the last ten of a cluster) are skipped. Features get gradients, rows do not;
    similarities stay in float32 in mixed precision, because the loss divides them by a small temperature. Source: Cluster
    Contrast (Dai et al., ACCV 2022), momentum update and hard instances.

    Raises :class:`ValueError` for a momentum outside [0, 1].
    """

    outliers = "drop"
    rows: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, update: Literal["momentum", "hard"] = "momentum") -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie between 0 and 1.")
        self.momentum, self.rule = momentum, update
        self.register_buffer("rows", torch.zeros(0, dim))

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        assert features is not None
        self.rows = centroids(F.normalize(features.float()), labels)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(features.float(), dim=-1) @ self.rows.T

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        if self.rule == "hard" and len(targets):
            targets = torch.where(_hardest(F.normalize(features.float()), self.rows, targets), targets, -1)
        move_rows(self.rows, features, targets, self.momentum)


def _hardest(features: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Mark the instance of each cluster that is least similar to its row (B,) bool; the first of equals."""
    similarity = (features * rows[targets.clamp(min=0)]).sum(1)
    place = torch.arange(len(features), device=features.device)
    ties, same = similarity == similarity[:, None], targets == targets[:, None]
    less = (similarity < similarity[:, None]) | (ties & (place < place[:, None]))
    return ~(same & less).any(1)
