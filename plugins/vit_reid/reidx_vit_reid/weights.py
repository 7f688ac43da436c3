"""Files of weights with the names of TransReID-SSL, DINO, PASS and timm, under the names of this package."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reidx.errors import CheckpointError
from reidx.models.weights import read_weights

if TYPE_CHECKING:
    from reidx_vit_reid.vit import ViT

ENTRIES = ("model", "state_dict", "teacher")
"""Entries of a file that hold the network: of training scripts, and the teacher of a self-supervised training."""

LEFT_OUT = re.compile(r"(head|head_dist|fc|classifier|bottleneck)(_\w+)?\.")
"""Names of parts that belong to the training of the file's network."""

_PART = re.compile(r"part_token(\d+)")


def read(path: str, module: ViT) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file under the names of ``module``, and a sentence on what was left out and what the file lacks.

    Raises :class:`CheckpointError` if the file is unreadable or holds more than tensors, is of no vision transformer, or has
    another stem or other part tokens than ``module``.
    """
    state = read_weights(path, module, ENTRIES)
    own, left = _of_transformer(state, path)
    own = _renamed(own, path)
    _refuse_other_parts(own, module, path)
    lacking = []
    there, here = own.get("camera_embed"), module.camera_embed
    if here is None or (there is not None and there.shape != here.shape):
        left += ["camera_embed"] if own.pop("camera_embed", None) is not None else []
    if here is not None and "camera_embed" not in own:
        own["camera_embed"] = here.detach().clone()
        lacking = ["camera_embed"]
    said = f"weights: {path}: {len(own) - len(lacking)} tensors are taken"
    if left:
        said += f"; left out: {_counted(left)}"
    if lacking:
        said += f"; not in the file and therefore random: {', '.join(lacking)}"
    return own, [said]


def _of_transformer(state: dict[str, Tensor], path: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors next to the class token, without their common prefix, and the names of all others."""
    prefixes = sorted({name.removesuffix("cls_token") for name in state if name == "cls_token" or name.endswith(".cls_token")})
    if len(prefixes) != 1:
        found = f"class tokens under {', '.join(prefixes)}" if prefixes else "no class token (cls_token)"
        raise CheckpointError(f"weights: {path} has {found}; it must hold one vision transformer.")
    inside = {name.removeprefix(prefixes[0]): value for name, value in state.items() if name.startswith(prefixes[0])}
    left = [name for name in state if not name.startswith(prefixes[0])]
    return (
        {name: value for name, value in inside.items() if not LEFT_OUT.match(name)},
        [*left, *(name for name in inside if LEFT_OUT.match(name))],
    )


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


def _counted(names: Iterable[str]) -> str:
    """Names by their first component, with the number of tensors of each."""
    counts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in sorted(counts.items()))
