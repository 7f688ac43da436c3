"""The cluster memory: one unit vector a cluster."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.memory.base import Memory, centroids


class ClusterMemory(Memory):
    """Similarities f·C (B,K) of unit features to unit centroids; the centroids follow the instances of each batch.

    At a reset C_k is the normalised mean of cluster k's features. After a step, instance by instance in the order of
    the batch, C_y ← normalize(m C_y + (1−m) f) with m = ``momentum`` and f at unit length: with m = 0.1 the last instance of
    a cluster carries nine tenths of its row, so the order counts. ``update: hard`` takes instead one instance of each cluster,
    the one least similar to its row as it was before the step. Outliers (−1) move nothing. Instances so far back that
    their share of a row is below float32's rounding (with m = 0.1 all but a cluster's last ten) are left out.
    Features get gradients, rows do not; similarities are float32 in mixed precision too, as they are divided by a small
    temperature (LP sections 1.3 and 5.1).

    Raises :class:`ValueError` for a momentum outside [0, 1].
    """

    outliers = "drop"
    rows: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, update: Literal["momentum", "hard"] = "momentum") -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie between 0 and 1.")
        self.momentum, self.rule, self.rounds = momentum, update, rounds_to_rounding(momentum)
        self.register_buffer("rows", torch.zeros(0, dim))

    def reset(self, bank: Tensor | None, labels: Tensor, cameras: Tensor | None = None) -> None:
        assert bank is not None
        self.rows = centroids(F.normalize(bank.float()), labels)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return features.float() @ self.rows.T

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        if not len(targets):
            return
        # Shapes hang on the size of the batch alone, and nothing is read back: a GPU is never waited for.
        features, clustered = F.normalize(features.float()), targets >= 0
        labels = targets.clamp(min=0)  # of an outlier: any, as it takes part in nothing
        same = (labels[:, None] == labels) & clustered
        old = self.rows[labels]
        if self.rule == "hard":
            least = _hardest(features, old, same)
            new = F.normalize(torch.lerp(features[least], old, self.momentum))
        else:
            new = self._one_by_one(features, old, same)
        # the same row for all instances of a cluster, so that it does not count which of them is written last
        self.rows[labels] = torch.where(same.any(1, keepdim=True), new, old)

    def _one_by_one(self, features: Tensor, old: Tensor, same: Tensor) -> Tensor:
        """For each instance, the row of its cluster after all of the cluster's instances, in their order."""
        earlier = same.tril(-1)
        before, is_first = _last(earlier), ~earlier.any(1, keepdim=True)
        rows = old  # what each instance leaves of its cluster's row; right for the k-th ones after k rounds
        for _ in range(min(len(features), self.rounds or len(features))):
            rows = F.normalize(torch.lerp(features, torch.where(is_first, old, rows[before]), self.momentum))
        return rows[_last(same)]


def _last(marked: Tensor) -> Tensor:
    """The last marked column of each row, 0 where there is none."""
    return (marked * torch.arange(marked.shape[1], device=marked.device)).amax(1)


def _hardest(features: Tensor, rows: Tensor, same: Tensor) -> Tensor:
    """Of each instance's cluster, the instance least similar to its row (the first of equals)."""
    similarity = (features * rows).sum(1)
    least = torch.where(same, similarity, torch.inf)
    ties = least == least.amin(1, keepdim=True)
    place = torch.arange(len(features), device=features.device)
    return torch.where(ties, place, len(features) - 1).amin(1)


def rounds_to_rounding(momentum: float) -> int | None:
    """How many instances of a cluster, the last ones, decide its row to the rounding of float32; None: all.

    ``normalize(m C + (1−m) f)`` of unit vectors brings two different C at least (1−2m)/m times closer together, as the sum is
    at least 1−2m long: from a distance of 2 to one of 2⁻²⁵ in so many steps.
    """
    closer = math.inf if momentum == 0 else (1 - 2 * momentum) / momentum
    return math.ceil(26 * math.log(2) / math.log(closer)) + 1 if closer > 1.05 else None
