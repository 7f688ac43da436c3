"""Optional regularisers of the split. No source mentions them, and only ``regularised.yaml`` uses them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.errors import ConfigError


class Orthogonality(nn.Module):
    """A penalty on similar shared and specific features, as in DAAM.

    mean cos(shared, specific)² over the images of both domains.

    It is an alignment because a loss receives only one feature. Raises :class:`ConfigError` for features of different widths.
    """

    requires = frozenset({"shared", "specific"})

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        if dims["shared"] != dims["specific"]:
            raise ConfigError(f"shared has {dims['shared']} numbers, specific {dims['specific']}: they have no angle.")

    def forward(self, source: Features, target: Features) -> Tensor:
        shared, specific = (torch.cat([source[name], target[name]]).float() for name in ("shared", "specific"))
        return F.cosine_similarity(shared, specific).square().mean()


class MaskMean(nn.Module):
    """A penalty on attention masks that close or open completely.

    (mean − ``rho``)² of a batch's mask means (B,1). Use it with ``feature: mask`` of :class:`AttentionSplit`. Raises
    :class:`ConfigError` for a ``rho`` that no mask can have.
    """

    def __init__(self, rho: float = 0.5) -> None:
        super().__init__()
        if not 0.0 < rho < 1.0:
            raise ConfigError(f"rho is {rho}; the mean of a mask lies between 0 and 1.")
        self.rho = rho

    def forward(self, features: Tensor) -> Tensor:
        return (features.float().mean() - self.rho).square()
