"""Weights of CLIP's image encoder for ``CLIPViT``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from reidx.errors import CheckpointError
from reidx.models.key_maps import LoadReport
from reidx.models.weights import weights_for

if TYPE_CHECKING:
    from reidx_clip_reid.encoder import CLIPViT


def read(path: str, module: CLIPViT) -> tuple[dict[str, Tensor], LoadReport]:
    """The image encoder in a file as a state of ``module``, and a report on its tensors.

    The layouts of OpenAI and CLIP-ReID are read by the key map ``CLIP``; the bias of timm's head, which is 0 for CLIP, is left
    out. Raises :class:`CheckpointError` if the file has no image encoder, several, or no projection.
    """
    names = [name for name, _ in module.encoder.named_parameters()]
    own, report = weights_for(path, names, module, (*names, "head.weight"))
    if "cls_token" not in own:
        raise CheckpointError(
            f"weights: {path} holds no image encoder of CLIP. A file needs one, named as by OpenAI "
            "(visual.class_embedding, …), CLIP-ReID (image_encoder.class_embedding, …) or timm (cls_token, …)."
        )
    if "head.weight" not in own:
        raise CheckpointError(f"weights: {path} has an image encoder without its projection, so it is not one of CLIP.")
    projection = {"projection.weight": own.pop("head.weight")}
    state = {**{f"encoder.{name}": tensor for name, tensor in own.items()}, **projection}
    return state, replace(report, taken=tuple(state))
