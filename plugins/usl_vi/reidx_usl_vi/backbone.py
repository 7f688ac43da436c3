"""A ResNet with a stem for each modality."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from reidx.data.datasets.sysu_mm01 import INFRARED, VISIBLE
from reidx.errors import ConfigError, DataError
from reidx.registry.build import Spec, build
from reidx.registry.constructor import Nested

BackboneSpec = Annotated[Spec, Nested("backbone")]

STEM = ("conv1", "bn1", "act1", "maxpool")
"""The layers of timm's ResNets before the first stage."""


class TwoStem(nn.Module):
    """A ResNet with a stem for each modality.

    Maps images (B,3,H,W) and their column ``modality`` (B,), 0 for visible and 1 for infrared, to a map (B,C,h,w).

    ``of`` is the spec of a backbone with a timm ResNet, such as ``Timm``. Both stems start from its weights, and also from
    those of the ResNet's stem in a checkpoint of ``of`` alone. A stem, the layers before the first stage with their
    BatchNorm, gets only the images of its modality; all other layers are shared.
    Source: AGW (Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021), the network of
    ADCA and PGM.

    Raises :class:`ConfigError` for a backbone without a timm ResNet, and :class:`DataError` for an unknown modality.
    """

    def __init__(self, of: BackboneSpec, image_size: tuple[int, int] = (256, 128)) -> None:
        super().__init__()
        self.shared: Any = build("backbone", of, where="of", image_size=image_size)
        resnet: Any = getattr(self.shared, "model", None)
        if not isinstance(resnet, ResNet):
            raise ConfigError(f"TwoStem: {type(self.shared).__name__} holds no ResNet of timm, so it has no stem to double.")
        visible = nn.Sequential(*(getattr(resnet, layer) for layer in STEM))
        self.stems = nn.ModuleList([visible, copy.deepcopy(visible)])
        for layer in STEM:
            setattr(resnet, layer, nn.Identity())
        self.out_channels: int = self.shared.out_channels
        self.nonnegative: bool = self.shared.nonnegative
        self.mean, self.std = self.shared.mean, self.shared.std

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        places = [(modality == value).nonzero()[:, 0] for value in (VISIBLE, INFRARED)]
        order = torch.cat(places)
        if len(order) != len(images):
            raise DataError(f"TwoStem: the modality of an image is neither {VISIBLE} (visible) nor {INFRARED} (infrared).")
        maps = torch.cat([stem(images[place]) for stem, place in zip(self.stems, places, strict=True) if len(place)])
        shared: Tensor = self.shared(maps[order.argsort()])
        return shared

    def refit(self, weights: Mapping[str, Tensor], trained_at: tuple[int, int] | None, where: str) -> dict[str, Tensor]:
        """Give both stems the stem in ``weights`` if these are a state of ``of`` alone; return other states unchanged."""
        if any(name.startswith("stems.") for name in weights):
            return dict(weights)
        moved: dict[str, Tensor] = {}
        for name, value in weights.items():
            layer, _, leaf = name.removeprefix("model.").partition(".")
            if layer in STEM:
                moved |= {f"stems.{modality}.{STEM.index(layer)}.{leaf}": value for modality in (VISIBLE, INFRARED)}
            else:
                moved[f"shared.{name}"] = value
        return moved

    def notes(self) -> list[str]:
        """The notes of the wrapped backbone."""
        return list(self.shared.notes())
