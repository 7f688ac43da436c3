"""Tokens of a backbone: those of timm's models, the heads that take them, and the errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import reidx
from reidx.errors import ConfigError
from reidx.fusions.class_token import ClassToken
from reidx.models.backbones import Timm
from reidx.models.forward import forward_in_parts
from reidx.models.network import Network, build_network
from reidx.registry.seam import full_checks

SIZE = (48, 32)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def token_backbone(*tokens: str, name: str = "test_vit") -> Timm:
    torch.manual_seed(0)
    return Timm(name, tokens=tokens, image_size=SIZE).eval()  # type: ignore[arg-type]


def test_class_token_is_the_input_of_the_head() -> None:
    backbone = token_backbone("class_token")
    encoded = backbone(images())
    torch.manual_seed(0)
    whole = timm.create_model("test_vit", num_classes=0, img_size=SIZE).eval()
    expected = whole.forward_head(whole.forward_features(images()), pre_logits=True)  # this model pools its class token
    torch.testing.assert_close(encoded["class_token"], expected)
    assert backbone.dims == {"class_token": 64} == {"class_token": expected.shape[1]}


def test_map_is_the_same_with_and_without_tokens() -> None:
    torch.testing.assert_close(token_backbone("class_token")(images())["map"], token_backbone()(images()))


def test_averaging_models_normalise_their_tokens() -> None:
    encoded = token_backbone("register_tokens", name="test_vit2")(images())
    assert encoded["register_tokens"].shape[0] == 4 and encoded["register_tokens"].ndim == 3
    for name, tokens in encoded.items():
        last = tokens.movedim(1, -1) if name == "map" else tokens
        torch.testing.assert_close(last.mean(-1), torch.zeros(last.shape[:-1]), atol=1e-5, rtol=0)  # LayerNorm


def test_distilled_models_have_two_tokens() -> None:
    backbone = token_backbone("distillation_token", "class_token", name="deit_tiny_distilled_patch16_224")
    encoded, tokens = backbone(images(2)), backbone.model.forward_features(images(2))
    torch.testing.assert_close(encoded["class_token"], tokens[:, 0])
    torch.testing.assert_close(encoded["distillation_token"], tokens[:, 1])


@pytest.mark.parametrize(
    ("name", "known"), [("test_resnet", "none"), ("test_vit", "class_token"), ("xcit_nano_12_p16_224", "none")]
)
def test_missing_token_is_an_error_that_lists_the_others(name: str, known: str) -> None:
    with pytest.raises(ConfigError, match=rf"no register_tokens \(its further tokens: {known}\)"):
        token_backbone("register_tokens", name=name)


def test_class_token_head_trains_the_token_in_chunks() -> None:
    backbone = token_backbone("class_token")
    network = Network(backbone, ClassToken(backbone.dims), bn_group=2).train()
    gradients = []
    for parts in (1, 2):
        network.zero_grad()
        _, features = forward_in_parts(network, images(), parts=parts)
        (features["embed"] * images()[:, 0].flatten(1)[:, :64]).sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert features["embed"].norm(dim=1).tolist() == pytest.approx([1.0] * 4)
    for whole, part in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-3, atol=1e-5)
    assert backbone.model.cls_token.grad.abs().sum() > 0


class Registers(nn.Module):
    """Backbone whose tokens differ from its declaration."""

    provides = frozenset({"part_tokens"})
    out_channels, nonnegative = 3, False

    def __init__(self, dims: Any = None, made: Any = None) -> None:
        super().__init__()
        self.dims, self.made = {"part_tokens": 5} if dims is None else dims, made

    def forward(self, images: Tensor) -> Any:
        return {"map": images, "part_tokens": torch.zeros(len(images), 2, 5), **self.made}


@pytest.mark.parametrize(
    ("dims", "made", "message"),
    [
        ({}, {}, "its dims names nothing, but `provides` part_tokens"),
        ({"part_tokens": 0}, {}, "not a mapping of each token's name to its width"),
        (None, {"part_tokens": torch.zeros(4, 5)}, r"its part_tokens is .*, not several vectors of 5 numbers for each of 4"),
        (None, {"part_tokens": torch.zeros(4, 2, 6)}, "its part_tokens is"),
        (None, {"map": torch.zeros(4, 2, 6, 6)}, "its map is .*, not a map of 4 images with 3 channels"),
        (None, {"more": torch.zeros(4, 5)}, r"not a mapping of map, part_tokens \(`dims`\)"),
    ],
)
def test_broken_tokens_name_the_backbone(register: Callable[[str, type], None], dims: Any, made: Any, message: str) -> None:
    register("backbone", Registers)
    model = {"backbone": {"type": "Registers", "dims": dims, "made": made}, "fusion": {"type": "GlobalPool"}}
    with pytest.raises(RuntimeError, match=rf"backbone Registers .*{message}"), full_checks():
        build_network({**model, "bn_group": 2, "freeze": []}, SIZE)(images())


def test_head_of_tokens_needs_a_backbone_with_tokens(experiment: Callable[..., Path]) -> None:
    model = {"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": "ClassToken"}
    expected = r"experiment.yaml:\d+.*fusion ClassToken .* takes 'class_token', which nothing.*set tokens: \[class_token\]"
    with pytest.raises(ConfigError, match=expected):
        reidx.load_config(experiment(model=model))


class Cameras(Timm):
    """Backbone that requires cameras."""

    def __init__(self) -> None:
        super().__init__("test_resnet")

    def forward(self, images: Tensor, cameras: Tensor) -> Any:  # type: ignore[override]
        return super().forward(images)


class Clothes(Timm):
    """Backbone that requires a column."""

    def __init__(self) -> None:
        super().__init__("test_resnet")

    def forward(self, images: Tensor, clothes: Tensor) -> Any:  # type: ignore[override]
        return super().forward(images)


def test_backbone_with_a_column_needs_a_data_set_with_it(
    experiment: Callable[..., Path], register: Callable[[str, type], None]
) -> None:
    register("backbone", Clothes)
    with pytest.raises(ConfigError, match=r"model.backbone: backbone Clothes .* its forward takes 'clothes'"):
        reidx.load_config(experiment(model={"backbone": {"type": "Clothes"}}))
