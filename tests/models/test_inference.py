"""Folding BatchNorm into convolutions changes the speed of a network, not its output."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reidx.models import inference
from reidx.models.backbones import Timm
from reidx.models.inference import fast_inference
from reidx.models.norm import group_batch_norm


def lived_in(model: nn.Module) -> nn.Module:
    """Give ``model`` BatchNorms as if trained (folding them at their initial values would change nothing) and return it."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(tensor, low, high, generator=generator)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def check_same(model: nn.Module, images: Tensor) -> nn.Module:
    fast = fast_inference(model)
    with torch.no_grad():
        expected, given = model.eval()(images), fast(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    return fast


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "efficientnet_b0", "vit_tiny_patch16_224"])
def test_same_map(name: str) -> None:
    torch.manual_seed(0)
    model = lived_in(Timm(name, image_size=(64, 32)))
    fast = check_same(model, torch.randn(2, 3, 64, 32))
    if name.startswith("resnet"):
        assert norms(model) > 0 and norms(fast) == 0
    # timm's BatchNorm with a built-in activation is more than a scale and a shift, so it is not folded
    assert norms(fast) == (norms(model) if name.startswith("efficientnet") else 0)
    assert fast.out_channels == model.out_channels


def test_by_hand() -> None:
    """One pixel, one channel: w x = 2·3 = 6, then (6 − 1) / √4 · 3 + 0.5 = 8."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0))
    values = (model[0].weight, 2.0), (model[1].running_mean, 1.0), (model[1].running_var, 4.0)
    for tensor, value in (*values, (model[1].weight, 3.0), (model[1].bias, 0.5)):
        nn.init.constant_(tensor, value)
    fast = fast_inference(model)
    assert fast(torch.full((1, 1, 1, 1), 3.0)).item() == pytest.approx(8.0)
    assert isinstance(fast[1], nn.Identity)
    assert fast[0].weight.item() == pytest.approx(3.0) and fast[0].bias.item() == pytest.approx(-1.0)


def test_fast_network_is_a_copy() -> None:
    model = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = fast_inference(model)
    fast(torch.randn(2, 3, 8, 8))
    assert model.training and norms(model) == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not fast.training and not any(p.requires_grad for p in fast.parameters())


def test_ghost_batch_norm_is_folded_too() -> None:
    model = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    assert norms(check_same(group_batch_norm(model, 2), torch.randn(4, 3, 8, 8))) == 0


class Untraceable(nn.Module):
    """Module whose forward reads a tensor's values, around a part that can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) if images.sum() > -1e9 else images


class Shared(nn.Module):
    """Module with a BatchNorm behind two convolutions, and a convolution used with and without its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 4, 3) for _ in range(3))
        self.shared, self.own = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        third = self.three(images)
        return self.shared(self.one(images)) + self.shared(self.two(images)) + self.own(third) * third


def test_parts_that_cannot_be_traced() -> None:
    assert norms(check_same(lived_in(Untraceable()), torch.randn(2, 3, 8, 8))) == 0


def test_modules_used_twice() -> None:
    assert norms(check_same(lived_in(Shared()), torch.randn(2, 3, 8, 8))) == 2


class Switch(nn.Module):
    """The order of its modules follows a plain setting."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu_first = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), False

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.norm(maps.relu()) if self.relu_first else self.norm(maps).relu()


def test_changed_setting_changes_what_is_folded() -> None:
    torch.manual_seed(0)
    model, images = lived_in(Switch()), torch.randn(2, 3, 8, 8)
    assert norms(check_same(model, images)) == 0
    model.relu_first = True
    assert norms(check_same(model, images)) == 1
    model.relu_first = False
    model.norm = nn.Identity()
    check_same(model, images)


class Ordered(Switch):
    """The order of its modules follows the attribute of an object, or the value of a function."""

    def __init__(self, order: Any) -> None:
        super().__init__()
        self.order = order

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        relu_first = self.order() if callable(self.order) else self.order.relu_first
        return self.norm(maps.relu()) if relu_first else self.norm(maps).relu()


CHANGES: dict[str, Callable[[Ordered], object]] = {
    "an object's attribute": lambda model: setattr(model.order, "relu_first", True),
    "another function": lambda model: setattr(model, "order", lambda: True),
    "another partial": lambda model: setattr(model, "order", partial(bool, 1)),
    "another forward": lambda model: setattr(model, "forward", MethodType(lambda m, x: m.norm(m.conv(x).relu()), model)),
    "a hook": lambda model: model.conv.register_forward_hook(lambda module, images, maps: maps.relu()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_object_changes_what_is_folded(change: str) -> None:
    torch.manual_seed(0)
    functions = {"another function": lambda: False, "another partial": partial(bool, 0)}
    order = functions.get(change, SimpleNamespace(relu_first=False))
    model, images = lived_in(Ordered(order)), torch.randn(2, 3, 8, 8)
    assert norms(check_same(model, images)) == 0
    CHANGES[change](model)
    assert norms(check_same(model, images)) == 1


def test_object_that_holds_itself_is_a_setting() -> None:
    model = lived_in(Switch())
    model.order = []
    model.order.append(model.order)
    assert norms(check_same(model, torch.randn(2, 3, 8, 8))) == 0


def test_weights_used_elsewhere_stay() -> None:
    class Tied(Switch):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * self.conv.weight.sum()

    torch.manual_seed(0)
    assert norms(check_same(lived_in(Tied()), torch.randn(2, 3, 8, 8))) == 1


def test_network_is_traced_once_while_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, images = Switch(), torch.randn(2, 3, 8, 8)
    traced: list[nn.Module] = []
    trace = inference._Tracer.trace
    monkeypatch.setattr(inference._Tracer, "trace", lambda self, root: traced.append(root) or trace(self, root))
    for _ in range(3):
        model.train()(images)
        with torch.no_grad():
            model.conv.weight.mul_(1.5)
        assert norms(check_same(model, images)) == 0
    assert len(traced) == 1
    check_same(Switch(), images)
    assert len(traced) == 2


def test_module_in_two_places_is_folded_once() -> None:
    """Its parent cannot be traced, so that both places are met."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
            self.other = nn.Sequential(self.one)

        def forward(self, images: Tensor) -> Tensor:
            return self.one(images) if images.sum() > 0 else self.other(images)

    torch.manual_seed(0)
    assert norms(check_same(lived_in(Twice()), torch.randn(2, 3, 8, 8))) == 0


def test_network_that_refers_to_itself_is_freed() -> None:
    """The record of its structure does not keep a network in memory, even if a hook or a setting refers to it."""

    def extracted() -> weakref.ref[nn.Module]:
        model = Switch()
        model.norm.register_forward_hook(lambda module, given, maps: maps.clone() if model.training else None)
        model.setting = lambda: model.conv
        fast_inference(model)
        return weakref.ref(model)

    gone = extracted()
    gc.collect()
    assert gone() is None


class Optional(nn.Module):
    """Another BatchNorm follows the convolution if an optional input is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> Tensor:
        maps = self.conv(images)
        return self.norm(maps) if cameras is None else self.other(maps) + cameras.view(-1, 1, 1, 1)


def test_optional_input_may_change_the_order_of_modules() -> None:
    torch.manual_seed(0)
    model, images = lived_in(Optional()), torch.randn(2, 3, 8, 8)
    fast = check_same(model, images)
    torch.testing.assert_close(fast(images, torch.arange(2)), model(images, torch.arange(2)))
