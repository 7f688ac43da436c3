"""The plain fusion head: one pooled, normalised vector of the whole map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.models.pooling import pooling


class GlobalPool(nn.Module):
    """One pooled, batch-normalised vector an image; the plain choice.

    Provides ``global`` and ``embed``, the L2-normalised BatchNorm of the pooled map, and ``pooled``, before the BatchNorm.

    All are (B,C). The BatchNorm ("BNNeck") starts at weight 1 and bias 0 and its bias stays 0 (Luo et al., CVPRW 2019).

    ``pool`` is ``gem``, ``avg``, ``max`` or ``avg+max``; ``neck: false`` omits the BatchNorm; ``normalize: false``
    keeps the features at their length.
    """

    provides = frozenset({"embed", "global", "pooled"})

    def __init__(self, in_channels: int, pool: str = "gem", neck: bool = True, normalize: bool = True) -> None:
        super().__init__()
        self.pool = pooling(pool)
        self.neck: nn.Module = nn.Identity()
        if neck:
            self.neck = nn.BatchNorm1d(in_channels)
            self.neck.bias.requires_grad_(False)
        self.normalize = normalize
        self.dims = dict.fromkeys(self.provides, in_channels)

    def forward(self, maps: Tensor) -> Features:
        pooled = self.pool(maps)
        vector = self.neck(pooled).float()
        if self.normalize:
            vector = F.normalize(vector)
        return Features({"embed": vector, "global": vector, "pooled": pooled})
