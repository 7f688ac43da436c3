"""The exemplar memory: one unit vector per image."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.memories.base import Memory
from reidx_global_patch.slots import first_of, mean_of


class ExemplarMemory(Memory):
    """One slot per image: the moving average of its features.

    The scores are the cosines (B,N) of features with the slots of the N images.

    A step writes v_i ← normalize(α v_i + (1−α) g_i), only into the slots of its images. α grows with the epoch e, the number
    of relabellings since the first: α = ``alpha``·e with ``ecn`` (``alpha`` 0.01), ``alpha``·e/60 with ``mmcl`` (0.5), at most
    1, and ``alpha`` with ``const``, which requires it. For several views of an image in one step, ``write: mean`` uses their
    mean, ``first`` the first. The first reset sets the slots to the images' features (``init: bank``) or to ``zeros``, as in
    the code of both papers; later resets keep them. Slots receive no gradient. Columns are images, so targets must be the
    indices of the images, as from the clusterer ``Instances``. Source: ECN, CVPR 2019; MMCL, CVPR 2020.

    Raises :class:`ValueError` for an ``alpha`` outside [0, 1], and for ``const`` without ``alpha``.
    """

    column_meaning = "images"
    rows: Tensor
    epoch: Tensor

    def __init__(
        self,
        dim: int,
        alpha_schedule: Literal["ecn", "mmcl", "const"] = "ecn",
        alpha: float | None = None,
        init: Literal["bank", "zeros"] = "bank",
        write: Literal["mean", "first"] = "mean",
    ) -> None:
        super().__init__()
        if alpha is None and alpha_schedule == "const":
            raise ValueError("alpha_schedule: const needs alpha, the share of the old slot in an update.")
        given = {"ecn": 0.01, "mmcl": 0.5}.get(alpha_schedule, 0.0) if alpha is None else alpha
        if not 0.0 <= given <= 1.0:
            raise ValueError(f"alpha is {given}; it must lie between 0 and 1.")
        grows = {"ecn": given, "mmcl": given / 60, "const": 0.0}
        self.slope, self.start = grows[alpha_schedule], given if alpha_schedule == "const" else 0.0
        self.init, self.write = init, write
        self.register_buffer("rows", torch.zeros(0, dim))
        # a buffer, so that checkpoints contain it; -1 until the first labelling
        self.register_buffer("epoch", torch.tensor(-1))

    @property
    def needs_features(self) -> bool:  # type: ignore[override]
        """True until the slots are filled."""
        return self.init == "bank" and not len(self.rows)

    @property
    def images(self) -> Tensor:
        """The slots (N,D), in the domain's order; empty before the first reset."""
        return self.rows

    def alpha(self) -> Tensor:
        """The share of the old slot in an update in this epoch."""
        return (self.start + self.slope * self.epoch.clamp(min=0)).clamp(max=1.0)

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        self.epoch = self.epoch + 1
        if len(self.rows):
            return
        if self.init == "zeros":
            self.rows = self.rows.new_zeros(len(labels), self.rows.shape[1])
        else:
            assert features is not None
            self.rows = F.normalize(features.to(self.rows))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(features.float(), dim=-1) @ self.rows.T

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        features = F.normalize(features.float())
        new = mean_of(features, index) if self.write == "mean" else features[first_of(index)]
        self.rows[index] = F.normalize(torch.lerp(new, self.rows[index], self.alpha()))
