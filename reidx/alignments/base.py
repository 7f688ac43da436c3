"""The base class of the core's alignments, which compare one feature of both domains in fp32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.errors import ConfigError


class FeatureAlignment(nn.Module, ABC):
    """Base of alignments of one ``feature``; a subclass defines the distance between two batches in :meth:`gap`.

    Both batches are fp32 (B,D) at every precision of the stage; their sizes may differ. Raises
    :class:`ConfigError` for a feature of parts (B,P,D).
    """

    def __init__(self, feature: str = "embed") -> None:
        super().__init__()
        self.feature = feature

    @classmethod
    def contract(cls, feature: str = "embed", **_: object) -> dict[str, Any]:
        """The contract, which requires the aligned feature."""
        return {"requires": frozenset({feature})}

    def forward(self, source: Features, target: Features) -> Tensor:
        ours, theirs = source[self.feature], target[self.feature]
        if ours.ndim != 2 or theirs.ndim != 2:
            raise ConfigError(
                f"{type(self).__name__} aligns one vector per image; {self.feature!r} is {tuple(ours.shape)}. "
                "Choose another `feature`."
            )
        with torch.autocast(ours.device.type, enabled=False):
            return self.gap(ours.float(), theirs.float())

    @abstractmethod
    def gap(self, source: Tensor, target: Tensor) -> Tensor:
        """The scalar to minimise, for features (N,D) and (M,D)."""
