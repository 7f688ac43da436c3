"""The cluster memory: one unit vector a cluster."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.memory.base import Memory, centroids


class ClusterMemory(Memory):
    """Similarities f·C (B,K) of unit features to unit centroids; the centroids follow the instances of each batch.

    At a reset C_k is the normalised mean of cluster k's features. After a step, instance by instance in the order of
    the batch, C_y ← normalize(m C_y + (1−m) f) with m = ``momentum``: with m = 0.1 the last instance of a cluster
    carries nine tenths of its row, so the order counts. ``update: hard`` takes instead one instance of each cluster,
    the one least similar to its row as it was before the step. Outliers (−1) move nothing. Features get gradients, rows
    do not; similarities are float32 in mixed precision too, as they are divided by a small temperature (LP sections 1.3
    and 5.1).

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

    def reset(self, bank: Tensor | None, labels: Tensor, cameras: Tensor | None = None) -> None:
        assert bank is not None
        self.rows = centroids(F.normalize(bank.float()), labels)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return features.float() @ self.rows.T

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        clustered = targets >= 0  # row −1 would be the last one
        features, targets = features[clustered].float(), targets[clustered]
        if self.rule == "hard":
            features, targets = self._hardest(features, targets)
        # Clusters do not touch each other's rows, so the k-th instances of all of them can be taken in at once: as many
        # rounds as the largest cluster has instances in the batch, the same result as one instance after another.
        for places in _rounds(targets):
            labels = targets[places]
            moved = torch.lerp(features[places], self.rows[labels], self.momentum)
            self.rows[labels] = F.normalize(moved)

    def _hardest(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of each cluster in the batch the instance least similar to its row (the first of equals)."""
        similarity = (features * self.rows[targets]).sum(1)
        order = torch.argsort(similarity, stable=True)
        order = order[torch.argsort(targets[order], stable=True)]
        labels = targets[order]
        first = torch.ones(len(order), dtype=torch.bool, device=order.device)
        first[1:] = labels[1:] != labels[:-1]
        return features[order[first]], labels[first]


def _rounds(targets: Tensor) -> list[Tensor]:
    """Positions of the batch by their rank among those of the same label: all firsts, all seconds, …"""
    order = torch.argsort(targets, stable=True)
    labels = targets[order]
    start = torch.searchsorted(labels, labels)
    rank = torch.arange(len(order), device=order.device) - start
    return [order[rank == k] for k in range(int(rank.max()) + 1)] if len(order) else []
