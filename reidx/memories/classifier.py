"""A linear classifier as a memory, with rows that are trained instead of averaged."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.errors import ConfigError
from reidx.memories.base import Memory, centroids


class LinearClassifier(Memory):
    """A linear classifier with a row for each label, without a bias.

    Logits are f·Wᵀ (B,K), with one row of W for each label; parts (B,P,D) have a separate W each and give (B,K,P).

    ``rows`` is the initialisation of W at a new labelling: ``random`` draws from N(0, 0.001²), ``uniform`` from ±1/√D as
    torch's own linear layers do, ``centroid`` takes the L2-normalised class means of the bank, and ``unit_centroid`` those
    of its features at unit length (each part separately), as the released code of PPLR and OpenUnReID does. The rows are
    then new parameters, so the optimiser discards their moments.
    With ``normalize``, logits are those of unit features and unit rows, times ``scale``. ``parts`` is the number P of parts
    for random rows; centroids follow the number of parts of the feature.
    """

    accepts_parts = frozenset({"features"})

    def __init__(
        self,
        dim: int,
        rows: Literal["random", "uniform", "centroid", "unit_centroid"] = "random",
        normalize: bool = False,
        scale: float = 1.0,
        parts: int | None = None,
    ) -> None:
        super().__init__()
        means = rows in ("centroid", "unit_centroid")
        if means and parts is not None:
            raise ValueError("parts is for rows: random or uniform; centroids are made of as many parts as the feature has.")
        self.rows, self.normalize, self.scale = rows, normalize, scale
        self.row_parts = [] if parts is None else [parts]
        self.needs_features = means
        self.weight = nn.Parameter(torch.zeros(0, dim))

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        if self.needs_features:
            assert features is not None
            weight = centroids(F.normalize(features.float(), dim=-1) if self.rows == "unit_centroid" else features, labels)
        else:
            shape = [int(labels.max()) + 1, *self.row_parts, self.weight.shape[-1]]
            limit = 1.0 / math.sqrt(shape[-1])
            weight = torch.randn(shape) * 0.001 if self.rows == "random" else (2.0 * torch.rand(shape) - 1.0) * limit
        self.weight = nn.Parameter(weight.to(self.weight))

    def forward(self, features: Tensor) -> Tensor:
        weight: Tensor = self.weight
        if weight.shape[1:] != features.shape[1:]:
            made, found = (" x ".join(map(str, shape[1:])) for shape in (weight.shape, features.shape))
            raise ConfigError(
                f"LinearClassifier: its rows are of {made} numbers, the feature has {found}. Random rows of a feature of parts "
                "need `parts`, those of any other must not have it."
            )
        with torch.autocast(features.device.type, enabled=False):  # bf16 is too coarse for logits of several tens
            return self._logits(features.float(), weight)

    def _logits(self, features: Tensor, weight: Tensor) -> Tensor:
        if self.normalize:
            features, weight = F.normalize(features, dim=-1), F.normalize(weight, dim=-1)
        if features.ndim == 2:
            return self.scale * F.linear(features, weight)
        return self.scale * torch.einsum("bpd,kpd->bkp", features, weight)
