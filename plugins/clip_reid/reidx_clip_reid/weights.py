"""Weights of CLIP's image encoder under the names of OpenAI, CLIP-ReID and timm."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from reidx.errors import CheckpointError

_OPENAI = (  # names of OpenAI and CLIP-ReID, and those of timm
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.ln_([12])\.", r".norm\1."),
)


def split_weights(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], list[str]]:
    """The image encoder in a file as a state of ``CLIPViT``, and a sentence on the tensors used, if others are left out.

    Raises :class:`CheckpointError`, which names ``source``, if the file has no image encoder, several, or no projection.
    """
    found = {
        name.removesuffix(first): first
        for first in ("class_embedding", "cls_token")
        for name in tensors
        if name == first or name.endswith(f".{first}")
    }
    if len(found) != 1:
        several = f"several image encoders, under {' and '.join(sorted(found))}" if found else "no image encoder of CLIP"
        raise CheckpointError(
            f"weights: {source} holds {several}. A file needs one, named as by OpenAI (visual.class_embedding, …), CLIP-ReID "
            "(image_encoder.class_embedding, …) or timm (cls_token, …)."
        )
    (prefix, first), *_ = found.items()
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    own, left = (_of_openai if first == "class_embedding" else _of_timm)(inside)
    if "projection.weight" not in own:
        raise CheckpointError(f"weights: {source} has an image encoder without its projection, so it is not one of CLIP.")
    unused = len(tensors) - len(inside) + left
    said = f"weights: {source}: of {len(tensors):,} tensors the {len(own):,} of the image encoder are used"
    return own, [said] if unused else []


def _of_openai(inside: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The encoder under OpenAI's names as a state, and the number of tensors left out (the text side of a bare CLIP)."""
    own, left = {}, 0
    for name, tensor in inside.items():
        timms = name
        for pattern, new in _OPENAI:
            timms = re.sub(pattern, new, timms)
        if name == "proj":
            own["projection.weight"] = tensor.T.contiguous()
        elif name in ("class_embedding", "positional_embedding"):
            own[f"encoder.{timms}"] = tensor.reshape(1, -1, tensor.shape[-1])
        else:
            own[f"encoder.{timms}"] = tensor
    return own, left


def _of_timm(inside: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The encoder under timm's names as a state, without the bias of the head, which is 0 for CLIP."""
    own = {f"encoder.{name}": tensor for name, tensor in inside.items() if not name.startswith("head.")}
    if "head.weight" in inside:
        own["projection.weight"] = inside["head.weight"]
    return own, int("head.bias" in inside)
