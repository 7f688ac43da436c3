"""Fusions that take over the last stage of the backbone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.errors import ConfigError
from reidx.models.backbones import Timm
from reidx.models.network import build_network
from reidx.registry.build import build


class TwoBranches(nn.Module):
    """Fusion of two copies of the last stage or, with ``whole``, of the whole map."""

    provides = frozenset({"embed", "second"})

    @staticmethod
    def contract(whole: bool = False) -> dict[str, Any]:
        return {"requires_tail": not whole}

    def __init__(self, in_channels: int, tail: nn.Module | None = None, whole: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Identity(), nn.Identity()] if whole else [tail, copy.deepcopy(tail)])
        self.given = in_channels
        self.dims = dict.fromkeys(self.provides, in_channels if whole else int(tail.out_channels))

    def forward(self, maps: Tensor) -> Features:
        first, second = (branch(maps).mean((2, 3)) for branch in self.branches)
        return Features({"embed": first, "second": second})


def network(register: Any, backbone: dict[str, Any], **fusion: Any) -> Any:
    register("fusion", TwoBranches)
    model = {"backbone": backbone, "fusion": {"type": "TwoBranches", **fusion}, "bn_group": None, "freeze": []}
    torch.manual_seed(0)
    return build_network(model, (64, 32))


@pytest.mark.parametrize("name", ["test_resnet", "resnet18"])
def test_both_branches_start_as_the_last_stage(register: Any, name: str) -> None:
    made = network(register, {"type": "Timm", "name": name}).eval()
    torch.manual_seed(0)
    whole = Timm(name, image_size=(64, 32)).eval()
    images = torch.randn(2, 3, 64, 32)
    features = made(images)
    expected = whole(images).mean((2, 3))
    assert torch.allclose(features["embed"], expected, atol=1e-5)
    assert torch.equal(features["embed"], features["second"])
    assert made.dims["embed"] == whole.out_channels
    assert made.fusion.given == made.backbone.out_channels != whole.out_channels
    assert made.backbone.map_size == tuple(made.encode(images)["map"].shape[2:])
    shared = {id(p) for p in made.backbone.parameters()} & {id(p) for p in made.fusion.parameters()}
    assert not shared and not any(p is q for p, q in zip(*(b.parameters() for b in made.fusion.branches)))


def test_fusion_without_tail_keeps_the_backbone(register: Any) -> None:
    made = network(register, {"type": "Timm", "name": "test_resnet"}, whole=True)
    assert made.backbone.out_channels == Timm("test_resnet", image_size=(64, 32)).out_channels


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_backbone_without_a_last_stage_is_refused(register: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be cut before its last stage.*the whole map"):
        network(register, {"type": "Timm", "name": name})


def test_a_backbone_that_cannot_be_cut_at_all(register: Any) -> None:
    class Flat(nn.Module):
        out_channels, nonnegative = 3, False

        def forward(self, images: Tensor) -> Tensor:
            return images

    register("backbone", Flat)
    assert build("backbone", "Flat") is not None
    with pytest.raises(ConfigError, match=r"model.fusion: TwoBranches is set to take over the last stage.*Flat cannot be cut"):
        network(register, {"type": "Flat"})
