"""What keeps the two halves of a split apart, and both alive. Neither is evidenced; both are off in the configs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.errors import ConfigError


class Orthogonality(nn.Module):
    """A penalty on similar shared and specific features, as in DAAM.

    mean cos(shared, specific)² over the images of both domains (DAAM section 1.5).

    It is an alignment, as a loss sees one feature at a time. Raises :class:`ConfigError` for features of two widths.
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
    """A penalty on attention masks that close or open altogether.

    (mean − ``rho``)² of a batch's mask means (B,1): keeps an attention mask from closing or opening altogether.

    ``on: mask`` of :class:`AttentionSplit` (DAAM section 1.5). Raises :class:`ConfigError` for a rho that no mask can have.
    """

    def __init__(self, rho: float = 0.5) -> None:
        super().__init__()
        if not 0.0 < rho < 1.0:
            raise ConfigError(f"rho is {rho}; the mean of a mask lies between 0 and 1.")
        self.rho = rho

    def forward(self, features: Tensor) -> Tensor:
        return (features.float().mean() - self.rho).square()
