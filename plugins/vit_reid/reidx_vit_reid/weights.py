"""Files of weights with the names of TransReID-SSL, DINO, PASS and timm, under the names of this package."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reidx.errors import CheckpointError
from reidx.models.key_maps import LoadReport
from reidx.models.weights import weights_for

if TYPE_CHECKING:
    from reidx_vit_reid.vit import ViT

_PART = re.compile(r"part_token(\d+)")


def read(path: str, module: ViT) -> tuple[dict[str, Tensor], LoadReport]:
    """The tensors of a file under the names of ``module``, and a report on the tensors taken, left out and missing.

    Raises :class:`CheckpointError` if the file is unreadable or holds more than tensors, is of no vision transformer, or has
    another stem or other part tokens than ``module``.
    """
    shared = [name for name in dict(module.named_parameters()) if name.startswith(("cls_token", "blocks.0.", "norm."))]
    state, report = weights_for(path, shared, module, ())
    if "cls_token" not in state:
        raise CheckpointError(f"weights: {path} has no class token (cls_token); it must hold one vision transformer.")
    own = _renamed(state, path)
    _refuse_other_parts(own, module, path)
    lacking: tuple[str, ...] = ()
    left = report.left_out
    there, here = own.get("camera_embed"), module.camera_embed
    if here is None or (there is not None and there.shape != here.shape):
        left += ("camera_embed",) if own.pop("camera_embed", None) is not None else ()
    taken = tuple(own)
    if here is not None and "camera_embed" not in own:
        own["camera_embed"] = here.detach().clone()
        lacking = ("camera_embed",)
    return own, replace(report, taken=taken, left_out=left, missing=lacking)


def _renamed(state: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """Join the separate part tokens of PASS, and the positions of its tokens; rename the camera embeddings."""
    own = dict(state)
    if "sie_embed" in own:
        own["camera_embed"] = own.pop("sie_embed").flatten(1)
    parts = sorted(int(found[1]) for found in map(_PART.fullmatch, state) if found)
    if parts:
        positions = ["cls_pos", *(f"part{number}_pos" for number in parts), "pos_embed"]
        if missing := [name for name in positions if name not in own]:
            raise CheckpointError(f"weights: {path} has part tokens, but no {', '.join(missing)}.")
        own["part_tokens"] = torch.cat([own.pop(f"part_token{number}") for number in parts], dim=1)
        own["pos_embed"] = torch.cat([own.pop(name) for name in positions], dim=1)
    if "pos_embed" not in own:
        raise CheckpointError(f"weights: {path} has no position embeddings (pos_embed).")
    return own


def _refuse_other_parts(state: dict[str, Tensor], module: ViT, path: str) -> None:
    """Raise :class:`CheckpointError` if the file has another stem or number of part tokens than ``module``."""
    parts = state["part_tokens"].shape[1] if "part_tokens" in state else 0
    if parts != module.parts:
        raise CheckpointError(f"weights: {path} has {parts} part tokens; set part_tokens: {parts} (it is {module.parts}).")
    stems = ["ics" if "patch_embed.conv.0.weight" in names else "patch" for names in (state, module.state_dict())]
    if stems[0] != stems[1]:
        raise CheckpointError(f"weights: {path} has the stem {stems[0]}; set stem: {stems[0]} (it is {stems[1]}).")
