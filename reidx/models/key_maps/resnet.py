"""Layouts of ResNets: torchvision's names, and the numbered layers of Cluster Contrast and SpCL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reidx.models.key_maps.names import Rename, by_patterns, prefix_of

_BLOCKS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
    (3, 4, 23, 3, True): "resnet101",
    (3, 8, 36, 3, True): "resnet152",
}
"""Models by the blocks of each layer, and by whether the blocks are bottlenecks."""


class ClusterContrast:
    """A ResNet as numbered layers: Cluster Contrast and SpCL.

    Its names begin with ``base.`` and a number: 0 is the first convolution, 1 its BatchNorm, 4 to 7 are the layers. The neck
    (``feat_bn``) and the classifier are left out.

    Source: Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", 2021; Ge et al., "Self-paced Contrastive
    Learning", NeurIPS 2020; released code of both.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = prefix_of(tensors, "base.0.weight", "base.1.weight", "base.4.0.conv1.weight")
        if prefix is None:
            return None
        layers = [(rf"^{number}\.", f"layer{number - 3}.") for number in range(4, 8)]
        return by_patterns(f"{prefix}base.", [(r"^0\.", "conv1."), (r"^1\.", "bn1."), *layers])

    @staticmethod
    def sample() -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"0.weight": (4, 3, 7, 7), "1.weight": (4,), "4.0.conv1.weight": (4, 4, 1, 1)}
        base = {f"module.base.{name}": shape for name, shape in shapes.items()}
        return {**base, "module.feat_bn.weight": (8,), "module.classifier.weight": (5, 8)}


class ResNet:
    """A ResNet under torchvision's names, which are also timm's.

    Its depth follows from the number of blocks. torchreid's ResNets, LUPerson's and CION's have these names.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        prefix = prefix_of(tensors, "conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight")
        return None if prefix is None else by_patterns(prefix)

    def suggest(self, tensors: Mapping[str, Tensor], path: str) -> dict[str, Any] | None:
        blocks = [sum(f"layer{layer}.{n}.conv1.weight" in tensors for n in range(99)) for layer in (1, 2, 3, 4)]
        name = _BLOCKS.get((*blocks, "layer1.0.conv3.weight" in tensors))
        plain = "layer1.0.bn1.weight" in tensors and "layer1.0.se.conv1.weight" not in tensors
        if name is None or not plain:
            return None
        return {"backbone": {"type": "Timm", "name": name, "weights": path}, "fusion": {"type": "GlobalPool", "pool": "avg"}}

    @staticmethod
    def sample() -> Mapping[str, tuple[int, ...]]:
        layers = {f"layer{number}.0.conv1.weight": (4, 4, 1, 1) for number in (1, 2, 3, 4)}
        return {"base.conv1.weight": (4, 3, 7, 7), "base.bn1.weight": (4,), **{f"base.{k}": v for k, v in layers.items()}}
