"""A map split by attention into what two domains share and what is of one alone, each with a branch of its own."""

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
"""A mask whose mean is above this, or below the rest to 1, leaves one of the branches next to nothing."""


class AttentionSplit(nn.Module):
    """Domain-shared and domain-specific features, split by attention.

    ``shared`` and ``specific`` (B,D), of a branch each, ``neck``, ``global``, ``embed``; ``mask``, ``share`` (B,1).

    With the mask A of the map F, of both domains' images by the same attention, the ``shared`` branch sees A·F and the
    ``specific`` one (1−A)·F, which add up to F (DAAM facts 2 to 5); with ``split: soft_residual`` the shared one sees
    (1+A)·F. ``neck`` is the BatchNorm of ``shared`` (bias 0), ``global`` that at length 1; ``mask`` the mean of A, ``share``
    what the specific branch sees of the map, ‖(1−A)·F‖ / ‖F‖ (both in the log, DAAM section 1.5).
    ``embed``, at length 1, is ``eval_feature``: ``sh`` (shared), ``sh_bn`` (neck), or ``sh+sp`` (both, at equal length).

    Args:
        attention: what makes the mask (:mod:`reidx_daam.attention`); its hidden layers have C/``reduction`` channels,
            and it begins near sigmoid(``bias_init``). ``none`` is 1/2 everywhere.
        branch: ``clone_stage``: each branch is a copy of the backbone's last stage, which then ends before it;
            ``conv``: a 1x1 convolution with BatchNorm and ReLU, behind any backbone.
        branch_dim: width of a ``conv`` branch; null: the map's.
        pool: ``avg``, ``gem``, ``max`` or ``avg+max``.
        neck: whether there is a BatchNorm; without, ``neck`` is ``shared``.
        detach_backbone_sp: the specific branch sees a constant map, so that what is learnt there does not reach the
            backbone by it.
        detach_attention_input: nor by the mask, which is made of a constant map there; attention itself learns from both.
            null: as ``detach_backbone_sp``.

    Raises :class:`ConfigError` for a width of cloned stages, or when they are asked for and there is no stage.
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
        # not part of the state: each of several processes sees another share of the batch
        self.register_buffer("seen", torch.tensor(torch.nan), persistent=False)

    @staticmethod
    def contract(branch: str = "clone_stage", **_: Any) -> dict[str, Any]:
        """Cloned stages need the backbone's ``tail``."""
        return {"needs": "tail" if branch == "clone_stage" else ""}

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
        """The maps (B,C,H,W) that the shared and the specific branch see."""
        masked = mask * maps
        shared = maps + masked if self.residual else masked
        if (self.detach_map or self.detach_input) and torch.is_grad_enabled():
            mask = self._of_constant(maps) if self.detach_input else mask
            maps = maps.detach() if self.detach_map else maps
            masked = mask * maps
        return shared, maps - masked

    def _of_constant(self, maps: Tensor) -> Tensor:
        """The mask of maps that carry no gradient; the attention's running statistics are not moved a second time."""
        buffers = {name: buffer.clone() for name, buffer in self.attention.named_buffers()}
        return functional_call(self.attention, buffers, (maps.detach(),))

    def notes(self) -> list[str]:
        """That the mask has collapsed, if it has (DAAM section 1.6)."""
        mean = float(self.seen)  # no number before the first batch
        cure = "Move model.fusion.bias_init away from it, or add the term daam.MaskMean on mask."
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
    """The norm of each map (B,C,H,W) in terms of the other's, (B,1); 0 of an empty one."""
    part_norm, norm = (torch.linalg.vector_norm(maps, dim=(1, 2, 3), dtype=torch.float32) for maps in (part, whole))
    return (part_norm / norm.clamp_min(torch.finfo(norm.dtype).tiny))[:, None]


def _branches(
    branch: str, in_channels: int, tail: nn.Module | None, branch_dim: int | None
) -> tuple[tuple[nn.Module, nn.Module], int]:
    """The shared and the specific branch, up to the pooling, and their width."""
    if branch == "conv":
        width = branch_dim or in_channels
        return (ConvNorm(in_channels, width), ConvNorm(in_channels, width)), width
    if branch_dim is not None:
        raise ConfigError("branch_dim is for branch: conv; a cloned stage is as wide as it is.")
    if tail is None:
        raise ConfigError("branch: clone_stage takes over the backbone's last stage, and none was given; use branch: conv.")
    return (tail, copy.deepcopy(tail)), tail.out_channels  # type: ignore[return-value]
