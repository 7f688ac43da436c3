"""The layout of torchreid's OSNet files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reidx.models.key_maps import Rename, by_patterns, prefix_of
from reidx_osnet.model import CHANNELS, WIDTHS


class Torchreid:
    """An OSNet of torchreid; its first convolution shows the width.

    The names are those of this plugin; both a checkpoint and a published file have them, perhaps after ``module.``.

    Source: Zhou and Xiang, "Torchreid: A Library for Deep Learning Person Re-Identification in Pytorch", 2019, released code.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = prefix_of(tensors, "conv1.conv.weight", "conv2.0.conv2a.conv1.weight", "conv5.conv.weight")
        return None if prefix is None else by_patterns(prefix)

    def suggest(self, tensors: Mapping[str, Tensor], path: str) -> dict[str, Any] | None:
        width = tensors["conv1.conv.weight"].shape[0] / CHANNELS[0]
        if width not in WIDTHS or "conv1.in.weight" in tensors:
            return None
        backbone = {"type": "osnet.OSNet", "width": width, "weights": path}
        linear = {"type": "osnet.Embedding", "weights": path}
        return {"backbone": backbone, "fusion": linear if "fc.0.weight" in tensors else {"type": "GlobalPool", "pool": "avg"}}

    @staticmethod
    def sample() -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"conv1.conv.weight": (16, 3, 7, 7), "conv2.0.conv2a.conv1.weight": (4, 4, 1, 1)}
        shapes |= {"conv5.conv.weight": (128, 128, 1, 1), "fc.0.weight": (512, 128), "classifier.weight": (5, 512)}
        return {f"module.{name}": shape for name, shape in shapes.items()}
