"""Attention that splits a map into a domain-shared and a domain-specific part, each with its own branch."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from reidx.contracts import Features
from reidx.errors import ConfigError
from reidx.models.pooling import pooling
from reidx_daam.attention import ConvNorm, Kind, attention_of

COLLAPSED = 0.98
"""A mask with a mean above this value, or below 1 minus it, leaves almost nothing to one of the branches."""


class AttentionSplit(nn.Module):
    """Domain-shared and domain-specific features, split by attention.

    Features: ``shared`` and ``specific`` (B,D), one per branch, ``neck``, ``global``, ``embed``; ``mask``, ``share`` (B,1).

    One attention computes the mask A of the map F for both domains. The ``shared`` branch receives A·F and the ``specific``
    branch (1−A)·F, so the parts add up to F (summary of the second version); with ``split: soft_residual`` the shared branch
    receives (1+A)·F. ``neck`` is the BatchNorm of ``shared`` (bias 0), ``global`` is ``neck`` at unit length. ``mask`` is the
    mean of A, ``share`` is ‖(1−A)·F‖ / ‖F‖, the specific branch's share of the map; the log reports both.
    ``embed``, at unit length, is ``eval_feature``: ``sh`` (shared), ``sh_bn`` (neck), or ``sh+sp`` (both, at equal length).

    Args:
        attention: kind of the attention (:mod:`reidx_daam.attention`); its hidden layers have C/``reduction`` channels,
            and its masks begin near sigmoid(``bias_init``). ``none`` is 1/2 everywhere.
        branch: ``clone_stage``: each branch is a copy of the backbone's last stage, and the backbone ends before it;
            ``conv``: a 1x1 convolution with BatchNorm and ReLU, after any backbone.
        branch_dim: width of a ``conv`` branch; null: the map's.
        pool: ``avg``, ``gem``, ``max`` or ``avg+max``.
        neck: adds a BatchNorm; without it, ``neck`` is ``shared``.
        detach_backbone_sp: gives the specific branch a constant map, so that no gradient reaches the backbone through it.
        detach_attention_input: computes the specific branch's mask from a constant map, so that no gradient reaches the
            backbone through the mask. The attention still learns from both branches. null: as ``detach_backbone_sp``.

    Raises :class:`ConfigError` for a ``branch_dim`` of cloned stages, and for ``clone_stage`` without a backbone's stage.
    """

    provides = frozenset({"embed", "global", "neck", "shared", "specific", "mask", "share"})
    figures = ("mask", "share")
    seen: Tensor

    def __init__(
        self,
        in_channels: int,
        tail: nn.Module | None = None,
        attention: Kind = "harmonious",
        reduction: int = 16,
        bias_init: float = 1.0,
        split: Literal["complement", "soft_residual"] = "complement",
        branch: Literal["clone_stage", "conv"] = "clone_stage",
        branch_dim: int | None = None,
        pool: str = "avg",
        neck: bool = True,
        eval_feature: Literal["sh", "sh_bn", "sh+sp"] = "sh_bn",
        detach_backbone_sp: bool = False,
        detach_attention_input: bool | None = None,
    ) -> None:
        super().__init__()
        self.residual, self.eval_feature = split == "soft_residual", eval_feature
        self.detach_map = detach_backbone_sp
        self.detach_input = detach_backbone_sp if detach_attention_input is None else detach_attention_input
        self.attention = attention_of(attention, in_channels, reduction, bias_init)
        stages, width = _branches(branch, in_channels, tail, branch_dim)
        self.shared, self.specific = (nn.Sequential(stage, pooling(pool)) for stage in stages)
        self.neck: nn.Module = nn.Identity()
        if neck:
            self.neck = nn.BatchNorm1d(width)
            self.neck.bias.requires_grad_(False)
        self.dims = {
            **dict.fromkeys(self.provides, width),
            "embed": 2 * width if eval_feature == "sh+sp" else width,
            **dict.fromkeys(self.figures, 1),
        }
        # not part of the state: each process sees a different share of the batch
        self.register_buffer("seen", torch.tensor(torch.nan), persistent=False)

    @staticmethod
    def contract(branch: str = "clone_stage", **_: Any) -> dict[str, Any]:
        """Require the backbone's ``tail`` for cloned stages."""
        return {"requires_tail": branch == "clone_stage"}

    def forward(self, maps: Tensor) -> Features:
        mask = self.attention(maps)
        parts = self.parts(maps, mask)
        shared, specific = (branch(part) for branch, part in zip((self.shared, self.specific), parts))
        neck = self.neck(shared).float()
        unit = F.normalize(neck)
        embed = unit
        if self.eval_feature != "sh_bn":
            embed = F.normalize(shared.float())
        if self.eval_feature == "sh+sp":
            embed = F.normalize(torch.cat([embed, F.normalize(specific.float())], 1))
        mean = mask.float().mean((1, 2, 3))[:, None]
        if self.training:
            self.seen.copy_(mean.detach().mean())
        split = {"shared": shared, "specific": specific, "mask": mean, "share": _share(parts[1], maps)}
        return Features({"embed": embed, "global": unit, "neck": neck, **split})

    def parts(self, maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The maps (B,C,H,W) that the shared and the specific branch receive."""
        masked = mask * maps
        shared = maps + masked if self.residual else masked
        if (self.detach_map or self.detach_input) and torch.is_grad_enabled():
            mask = self._of_constant(maps) if self.detach_input else mask
            maps = maps.detach() if self.detach_map else maps
            masked = mask * maps
        return shared, maps - masked

    def _of_constant(self, maps: Tensor) -> Tensor:
        """The mask of detached maps; does not update the attention's running statistics a second time."""
        buffers = {name: buffer.clone() for name, buffer in self.attention.named_buffers()}
        return functional_call(self.attention, buffers, (maps.detach(),))

    def notes(self) -> list[str]:
        """A warning for the log if the mask has collapsed."""
        mean = float(self.seen)  # NaN before the first batch
        cure = "Change model.fusion.bias_init, or add the term daam.MaskMean on mask."
        if mean > COLLAPSED:
            where, what = f"above {COLLAPSED}", "the specific branch sees hardly anything"
        elif mean < 1 - COLLAPSED:
            where = f"below {1 - COLLAPSED:.2f}"
            what = "both branches see the whole map" if self.residual else "the shared branch sees hardly anything"
        else:
            return []
        return [f"AttentionSplit: the mean of the mask is {where}, so {what}. {cure}"]


@torch.no_grad()
def _share(part: Tensor, whole: Tensor) -> Tensor:
    """The norm of each part (B,C,H,W) divided by that of the whole map, (B,1); 0 for a part of zeros."""
    part_norm, norm = (torch.linalg.vector_norm(maps, dim=(1, 2, 3), dtype=torch.float32) for maps in (part, whole))
    return (part_norm / norm.clamp_min(torch.finfo(norm.dtype).tiny))[:, None]


def _branches(
    branch: str, in_channels: int, tail: nn.Module | None, branch_dim: int | None
) -> tuple[tuple[nn.Module, nn.Module], int]:
    """The shared and the specific branch without pooling, and their width."""
    if branch == "conv":
        width = branch_dim or in_channels
        return (ConvNorm(in_channels, width), ConvNorm(in_channels, width)), width
    if branch_dim is not None:
        raise ConfigError("branch_dim is for branch: conv; the width of a cloned stage cannot change.")
    if tail is None:
        raise ConfigError("branch: clone_stage needs the backbone's last stage, and none was given; use branch: conv.")
    return (tail, copy.deepcopy(tail)), tail.out_channels  # type: ignore[return-value]
