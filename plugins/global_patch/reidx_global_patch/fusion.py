"""The two levels of a map: a vector of the whole map, and one per patch."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx_global_patch.generators import Padding, SpatialTransformer, Stripes, pooled_patches


class GlobalPatch(nn.Module):
    """Global and patch vectors, for losses on whole images and patches.

    Unit vectors ``global`` (B,Dg), ``patch`` (B,P,256) and ``embed``, and ``image`` (B,P·128), the vector of PAUL's
    image-level loss.

    The map is averaged as a whole and patch by patch. ``global``: BatchNorm, then unit length; ``global_dim`` adds a linear
    layer to that width before, ``global_neck: false`` removes the BatchNorm, and ``global_dropout`` is a dropout on the unit
    vector (``global_dim: 4096, global_dropout: 0.5`` is ECN's head, CVPR 2019). ``patch``: a linear layer and a BatchNorm per
    patch, a ReLU with ``relu`` (supervised pre-training), then unit length (PAUL, CVPR 2019). ``image``: the cosines of each
    patch with its own ``embed_dim`` rows, which are fixed with ``embed_trainable: false`` (PAUL, whose rows come from
    pre-training).

    ``generator`` selects the patches: ``stripes``, or ``stn``, a spatial transformer of the map (its keys begin with
    ``generator_``, see :class:`SpatialTransformer`); ``align_corners`` and ``padding`` are the options of the sampling.
    ``embed`` is ``eval_feature``: ``global``, ``patch``, or ``fused``, whose cosine is ``fusion_lambda`` times that of
    ``global`` plus the rest times the patches' mean cosine. ``detach_global`` and ``detach_patch`` stop the gradient from a
    level to the backbone.

    Raises :class:`ValueError` for an invalid number.
    """

    provides = frozenset({"embed", "global", "patch", "image"})
    part_features = frozenset({"patch"})

    def __init__(
        self,
        in_channels: int,
        num_patches: int = 6,
        patch_dim: int = 256,
        embed_dim: int = 128,
        embed_trainable: bool = True,
        relu: bool = False,
        global_dim: int | None = None,
        global_neck: bool = True,
        global_dropout: float = 0.0,
        generator: Literal["stripes", "stn"] = "stripes",
        generator_hidden: int = 4096,
        generator_fc: int = 512,
        generator_trainable: bool = False,
        generator_bn_eval: bool = True,
        align_corners: bool = True,
        padding: Padding = "border",
        eval_feature: Literal["fused", "global", "patch"] = "fused",
        fusion_lambda: float = 0.5,
        detach_global: bool = False,
        detach_patch: bool = False,
    ) -> None:
        super().__init__()
        for name, share in (("fusion_lambda", fusion_lambda), ("global_dropout", global_dropout)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is a share, from 0 to 1, not {share}.")
        if num_patches < 1:
            raise ValueError(f"num_patches is {num_patches}; there must be at least one patch.")
        self.align_corners, self.padding = align_corners, padding
        self.eval_feature, self.fusion_lambda = eval_feature, fusion_lambda
        self.detach_global, self.detach_patch = detach_global, detach_patch
        self.whole = WholeHead(in_channels, global_dim, global_neck, global_dropout)
        self.generator: nn.Module = Stripes(num_patches)
        if generator == "stn":
            sizes = (in_channels, num_patches, generator_hidden, generator_fc)
            self.generator = SpatialTransformer(*sizes, generator_trainable, generator_bn_eval)
        self.patches = PatchHead(in_channels, num_patches, patch_dim, relu)
        rows = torch.empty(num_patches, embed_dim, patch_dim)
        self.rows = nn.Parameter(rows, requires_grad=embed_trainable)
        for own in self.rows:
            nn.init.orthogonal_(own.data)
        widths = {"global": global_dim or in_channels, "patch": num_patches * patch_dim}
        self.dims = {
            "embed": sum(widths.values()) if eval_feature == "fused" else widths[eval_feature],
            "global": widths["global"],
            "patch": patch_dim,
            "image": num_patches * embed_dim,
        }

    def forward(self, maps: Tensor) -> Features:
        whole = self.whole((maps.detach() if self.detach_global else maps).mean((2, 3)))
        local = maps.detach() if self.detach_patch else maps
        patch = self.patches(pooled_patches(local, self.generator(local), self.align_corners, self.padding))
        image = torch.einsum("bpd,ped->bpe", patch, F.normalize(self.rows, dim=2)).flatten(1)
        return Features({"embed": self.embed(whole, patch), "global": whole, "patch": patch, "image": image})

    def embed(self, whole: Tensor, patch: Tensor) -> Tensor:
        """The retrieval vector of the two levels."""
        if self.eval_feature == "global":
            return whole
        if self.eval_feature == "patch":
            return fused(None, patch, 0.0)
        return fused(whole, patch, self.fusion_lambda)


def fused(whole: Tensor | None, patch: Tensor, share: float) -> Tensor:
    """Fuse both levels into one unit vector (B,D).

    Its cosine is ``share`` times that of ``whole`` (B,·) plus 1 − ``share`` times the mean cosine of the patches (B,P,·). The
    inputs must be unit vectors.
    """
    patches = math.sqrt((1.0 - share) / patch.shape[1]) * patch.flatten(1)
    return patches if whole is None else torch.cat([math.sqrt(share) * whole, patches], 1)


class WholeHead(nn.Module):
    """The pooled map (B,C) to a unit vector (B,D): optional linear layer, BatchNorm, unit length, dropout."""

    def __init__(self, in_channels: int, dim: int | None, neck: bool, dropout: float) -> None:
        super().__init__()
        self.linear: nn.Module = nn.Identity() if dim is None else nn.Linear(in_channels, dim, bias=not neck)
        self.neck: nn.Module = nn.BatchNorm1d(dim or in_channels) if neck else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.dropout(F.normalize(self.neck(self.linear(pooled)).float()))


class PatchHead(nn.Module):
    """Pooled patches (B,P,C) to unit vectors (B,P,D), with a separate linear layer and BatchNorm per patch."""

    def __init__(self, in_channels: int, num_patches: int, dim: int, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        self.weight = nn.Parameter(torch.empty(num_patches, dim, in_channels))
        nn.init.uniform_(self.weight, -1 / math.sqrt(in_channels), 1 / math.sqrt(in_channels))
        # one layer over the channels of all patches: statistics are per channel, so also per patch
        self.norm = nn.BatchNorm1d(num_patches * dim)

    def forward(self, pooled: Tensor) -> Tensor:
        made = torch.einsum("bpc,pdc->bpd", pooled, self.weight)
        made = self.norm(made.flatten(1)).view_as(made).float()
        return F.normalize(torch.relu(made) if self.relu else made, dim=2)
