"""The head: a global vector and one vector per horizontal stripe of the same map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.errors import ConfigError
from reidx.models.pooling import pooling


class Stripes(nn.Module):
    """One global vector and a vector for each horizontal stripe.

    Returns ``global`` (B,C) and ``parts`` (B,P,C), pooled and batch-normalised but not at unit length, and ``embed`` (B,C),
    which is ``global`` at unit length.

    The map (B,C,h,w) is cut into P = ``parts`` horizontal stripes as in adaptive pooling: stripe i holds the rows
    ⌊i·h/P⌋ … ⌈(i+1)·h/P⌉ − 1, so neighbouring stripes share a row if h is not a multiple of P. The whole map and each stripe
    have separate BatchNorms ("BNNeck": the weight starts at 1, the bias is 0 and never trained). ``pool`` is ``avg`` (as
    published), ``gem`` (one exponent for the whole map and one per stripe), ``max`` or ``avg+max``. Source: PPLR (Cho et al.,
    CVPR 2022).

    Raises :class:`ValueError` for fewer than one part, :class:`ConfigError` for a map with fewer rows than parts.
    """

    provides = frozenset({"embed", "global", "parts"})
    part_features = frozenset({"parts"})

    def __init__(self, in_channels: int, parts: int = 3, pool: str = "avg") -> None:
        super().__init__()
        if parts < 1:
            raise ValueError(f"parts is {parts}; it must be 1 or more.")
        self.parts = parts
        self.pool = pooling(pool)
        self.stripe_pools = nn.ModuleList(pooling(pool) for _ in range(parts))
        self.neck = _neck(in_channels)
        self.stripe_neck = _neck(parts * in_channels)  # BatchNorm is per channel, so this equals one neck per stripe
        self.dims = dict.fromkeys(self.provides, in_channels)

    def forward(self, maps: Tensor) -> Features:
        rows, parts = maps.shape[2], self.parts
        if rows < parts:
            raise ConfigError(
                f"pplr.Stripes: a map of {rows} rows cannot be cut into {parts} stripes. Raise data.image_size, take a "
                "backbone with a finer map (last_stride: 1), or lower parts of model.fusion."
            )
        stripes = [
            pool(maps[:, :, i * rows // parts : -(-(i + 1) * rows // parts)])
            for i, pool in enumerate(self.stripe_pools)
        ]
        whole = self.neck(self.pool(maps)).float()
        by_stripe = self.stripe_neck(torch.cat(stripes, 1)).float().unflatten(1, (parts, -1))
        return Features({"embed": F.normalize(whole), "global": whole, "parts": by_stripe})


def _neck(channels: int) -> nn.BatchNorm1d:
    neck = nn.BatchNorm1d(channels)
    neck.bias.requires_grad_(False)
    return neck
