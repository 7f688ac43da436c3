"""Layouts of vision transformers: timm's names, CLIP's, and the Swin of SOLIDER."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.models.key_maps.names import Rename, by_patterns, prefix_of

_VITS = {(192, 12): "vit_tiny", (384, 12): "vit_small", (768, 12): "vit_base", (1024, 24): "vit_large"}
_SWINS = {(96, 6): "swin_tiny", (96, 18): "swin_small", (128, 18): "swin_base"}
"""Models by width and number of blocks (of the third stage)."""

SEMANTIC_WEIGHT = 0.2
"""SOLIDER's semantic weight in its person re-ID experiments (released code)."""


def _blocks(tensors: Mapping[str, Tensor], prefix: str, leaf: str) -> int:
    return sum(f"{prefix}{number}.{leaf}" in tensors for number in range(99))


class ViT:
    """A ViT under timm's names: TransReID-SSL, PersonViT, DINOv2.

    Its model follows from width, depth and patch size. Class and position embeddings, patches and blocks are taken. A network
    with part tokens or with further convolutions below the patches is not suggested; the plugin vit_reid has those.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = prefix_of(tensors, "cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
        return None if prefix is None else by_patterns(prefix)

    def suggest(self, tensors: Mapping[str, Tensor], path: str) -> dict[str, Any] | None:
        width, patch = tensors["cls_token"].shape[-1], tensors["patch_embed.proj.weight"].shape[-1]
        name = _VITS.get((width, _blocks(tensors, "blocks.", "attn.qkv.weight")))
        further = ("part_token1", "patch_embed.conv.0.weight", "norm_pre.weight", "dist_token")
        if name is None or any(one in tensors for one in further):
            return None
        if "blocks.0.ls1.gamma" in tensors:
            kind = f"patch{patch}_reg4_dinov2" if "register_tokens" in tensors else f"patch{patch}_dinov2"
        else:
            kind = f"patch{patch}_224"
        backbone = {"type": "Timm", "name": f"{name}_{kind}", "tokens": ["class_token"], "weights": path}
        return {"backbone": backbone, "fusion": {"type": "ClassToken"}}

    @staticmethod
    def sample() -> Mapping[str, tuple[int, ...]]:
        shapes = {"cls_token": (1, 1, 8), "pos_embed": (1, 9, 8), "patch_embed.proj.weight": (8, 3, 16, 16)}
        shapes["blocks.0.attn.qkv.weight"] = (24, 8)
        return {f"base.{name}": shape for name, shape in shapes.items()}


_CLIP = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^proj$", "head.weight"),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.ln_([12])\.", r".norm\1."),
)


class CLIP:
    """CLIP's image encoder (a ViT) under the names of OpenAI and CLIP-ReID.

    Its names begin with ``visual.`` (OpenAI) or ``image_encoder.`` (CLIP-ReID); they become timm's, the projection its
    ``head.weight``. The text side, prompts, necks and classifiers are left out.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021; Li, Sun, Li,
    "CLIP-ReID", AAAI 2023; released code of both.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = prefix_of(tensors, "class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight")
        if prefix is None:
            return None
        rename = by_patterns(prefix, _CLIP, left_out="token_embedding|text_projection|logit_scale|ln_final")

        def shaped(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
            renamed = rename(name, tensor)
            if renamed is None:
                return None
            if renamed[0] == "head.weight":
                return "head.weight", tensor.T.contiguous()
            if renamed[0] in ("cls_token", "pos_embed"):
                return renamed[0], tensor.reshape(1, -1, tensor.shape[-1])
            return renamed

        return shaped

    def suggest(self, tensors: Mapping[str, Tensor], path: str) -> dict[str, Any] | None:
        patch = tensors["patch_embed.proj.weight"].shape[-1]
        if tensors["cls_token"].shape[-1] != 768 or patch != 16:
            return None
        name = "vit_base_patch16_clip_quickgelu_224"
        backbone = {"type": "Timm", "name": name, "tokens": ["class_token"], "weights": path}
        return {"backbone": backbone, "fusion": {"type": "ClassToken"}}

    @staticmethod
    def sample() -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"class_embedding": (8,), "positional_embedding": (9, 8), "ln_pre.weight": (8,)}
        shapes |= {"conv1.weight": (8, 3, 16, 16), "proj": (8, 6), "transformer.resblocks.0.attn.in_proj_weight": (24, 8)}
        return {**{f"visual.{name}": shape for name, shape in shapes.items()}, "token_embedding.weight": (5, 8)}


class SOLIDER:
    """The Swin transformer of SOLIDER under OpenMMLab's names.

    They become timm's. Merged patches are ordered differently: channel, row, column there; column, row, channel here. After
    each merge SOLIDER scales and shifts the channels by its semantic weight λ, x · softplus(W [λ, 1-λ] + w) + V [λ, 1-λ] + v.
    This affine map for λ = 0.2 is folded into the merging layers, exactly: the scale into the rows of its matrix R, the shift
    b into the bias of its norm, as R⁺ b.

    Source: Chen et al., "Beyond Appearance: a Semantic Controllable Self-Supervised Learning Framework for Human-Centric
    Visual Tasks", CVPR 2023, released code.
    """

    remark = f"SOLIDER's semantic weight is {SEMANTIC_WEIGHT}"

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = prefix_of(tensors, "patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight")
        if prefix is None:
            return None
        rules = (
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^stages\.(\d+)\.blocks", r"layers.\1.blocks"),
            (r"\.attn\.w_msa\.", ".attn."),
            (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
            (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
            (r"^norm3\.", "norm."),
        )
        left_out = r"norm[0-2]\.|semantic_embed|stages\.\d+\.blocks\.\d+\.attn\.w_msa\.relative_position_index"
        rename = by_patterns(prefix, rules, left_out)
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        def merged(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
            found = re.fullmatch(r"stages\.(\d+)\.downsample\.(.+)", name.removeprefix(prefix))
            if found is None or not name.startswith(prefix):
                return rename(name, tensor)
            stage = int(found[1])
            weight, bias = _fold_semantics(own, stage)
            value = {"reduction.weight": weight, "norm.bias": bias}.get(found[2], tensor)
            # timm merges at the start of the next stage
            return f"layers.{stage + 1}.downsample.{found[2]}", _reorder_merged(value)

        return merged

    def suggest(self, tensors: Mapping[str, Tensor], path: str) -> dict[str, Any] | None:
        third = _blocks(tensors, "layers.2.blocks.", "norm1.weight")
        name = _SWINS.get((tensors["patch_embed.proj.weight"].shape[0], third))
        if name is None:
            return None
        backbone = {"type": "Timm", "name": f"{name}_patch4_window7_224", "weights": path}
        return {"backbone": backbone, "fusion": {"type": "GlobalPool", "pool": "avg"}}

    @staticmethod
    def sample() -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            "patch_embed.projection.weight": (8, 3, 4, 4),
            "stages.0.blocks.0.attn.w_msa.qkv.weight": (24, 8),
            "stages.0.downsample.norm.weight": (32,),
            "stages.0.downsample.norm.bias": (32,),
            "stages.0.downsample.reduction.weight": (16, 32),
        }
        for name in ("semantic_embed_w.0", "semantic_embed_b.0"):
            shapes |= {f"{name}.weight": (16, 2), f"{name}.bias": (16,)}
        return shapes


def _fold_semantics(own: Mapping[str, Tensor], stage: int) -> tuple[Tensor, Tensor]:
    """Matrix and norm bias of the merging layer after ``stage``, with the affine map of the semantic weight folded in."""
    weight, bias = (own[f"stages.{stage}.downsample.{leaf}"] for leaf in ("reduction.weight", "norm.bias"))
    if f"semantic_embed_w.{stage}.weight" not in own:
        return weight, bias
    share = torch.tensor([SEMANTIC_WEIGHT, 1 - SEMANTIC_WEIGHT], dtype=torch.float64)
    scale, shift = (
        own[f"{name}.{stage}.weight"].double() @ share + own[f"{name}.{stage}.bias"].double()
        for name in ("semantic_embed_w", "semantic_embed_b")
    )
    scaled = F.softplus(scale)[:, None] * weight.double()
    return scaled.to(weight.dtype), (bias.double() + torch.linalg.pinv(scaled) @ shift).to(bias.dtype)


def _reorder_merged(value: Tensor) -> Tensor:
    """Reorder the last axis from (channel, row, column) to (column, row, channel)."""
    parts = value.unflatten(-1, (-1, 2, 2))
    return parts.movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3).contiguous()
