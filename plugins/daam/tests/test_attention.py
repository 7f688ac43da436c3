"""The masks: shapes, initial values and range, and each kind against plain loops."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from reidx_daam.attention import Harmonious, Kind, Places, Pointwise, SqueezeExcite, attention_of
from torch import Tensor, nn

KINDS = get_args(Kind)
SHAPES = {"se": (8, 1, 1), "spatial": (1, 5, 3), "none": (1, 1, 1)}


def maps(images: int = 6, height: int = 5, width: int = 3) -> Tensor:
    return torch.rand(images, 8, height, width, generator=torch.Generator().manual_seed(0))


def made(kind: Kind, bias_init: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    return attention_of(kind, 8, reduction=2, bias_init=bias_init)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_in_range_and_fits_map(kind: Kind) -> None:
    mask = made(kind)(maps())
    assert mask.shape == (6, *SHAPES.get(kind, (8, 5, 3)))
    assert (mask > 0).all()
    assert (mask < 1).all()
    assert torch.broadcast_shapes(mask.shape, (6, 8, 5, 3)) == (6, 8, 5, 3)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "none"])
def test_mask_crosses_one_half(kind: Kind) -> None:
    # a ReLU before the sigmoid would keep the mask in [1/2, 1), and the specific part below half of the map
    module = made(kind, bias_init=-2.0)
    assert module(maps()).max() < 0.5
    assert made(kind, bias_init=3.0)(maps()).min() > 0.5
    module = made(kind, bias_init=0.0)
    for parameter in module.parameters():  # with large weights, one mask has values on both sides
        if parameter.ndim == 4:
            parameter.data.mul_(20)
    mask = module(maps())
    assert mask.min() < 0.25 < mask.max()


@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "none"])
def test_mask_begins_near_sigmoid_of_bias(kind: Kind, bias: float) -> None:
    mean = made(kind, bias)(0.1 * maps(64)).mean().item()
    assert mean == pytest.approx(1 / (1 + math.exp(-bias)), abs=0.12)


def test_none_is_one_half_without_parameters() -> None:
    module = made("none")
    assert torch.equal(module(maps()), torch.full((6, 1, 1, 1), 0.5))
    assert not list(module.parameters())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (7, 5), (16, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_mask_fits_maps_of_any_size(kind: Kind, height: int, width: int) -> None:
    given = maps(4, height, width)
    assert (made(kind)(given) * given).shape == given.shape


def test_reduction_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction is 0"):
        attention_of("se", 8, reduction=0)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "none"])
def test_every_parameter_learns(kind: Kind) -> None:
    module = made(kind)
    given = maps().requires_grad_()
    (module(given) * torch.randn(6, 8, 5, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert given.grad is not None
    assert given.grad.abs().sum() > 0


# ---- the same values by loops, in evaluation mode


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def trained(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, with running statistics and biases that differ from those of a new one."""
    for _ in range(3):
        module(maps(16))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.bias.data.uniform_(-0.2, 0.4)
    return module.eval()


def through(layer: nn.Sequential, values: list[float]) -> list[float]:
    """A 1x1 convolution, BatchNorm and ReLU of the channels at one position."""
    conv, norm = layer[0], layer[1]
    out = []
    for k, row in enumerate(conv.weight[:, :, 0, 0].tolist()):
        x = sum(w * v for w, v in zip(row, values))
        x = (x - norm.running_mean[k].item()) / math.sqrt(norm.running_var[k].item() + norm.eps)
        out.append(max(x * norm.weight[k].item() + norm.bias[k].item(), 0.0))
    return out


def linear(conv: nn.Conv2d, values: list[float]) -> list[float]:
    rows, bias = conv.weight[:, :, 0, 0].tolist(), conv.bias.tolist()  # type: ignore[union-attr]
    return [b + sum(w * v for w, v in zip(row, values)) for row, b in zip(rows, bias)]


@torch.no_grad()
def test_harmonious_by_loops() -> None:
    module = trained(made("harmonious"))
    assert isinstance(module, Harmonious)
    given = maps(1, 4, 4)
    image = given[0].tolist()
    mean = [[sum(image[c][i][j] for c in range(8)) / 8 for j in range(4)] for i in range(4)]
    kernel, norm = module.coarse[0].weight[0, 0].tolist(), module.coarse[1]
    coarse = [[0.0] * 2 for _ in range(2)]
    for i in range(2):
        for j in range(2):
            total = 0.0
            for a in range(3):
                for b in range(3):
                    y, x = 2 * i + a - 1, 2 * j + b - 1
                    if 0 <= y < 4 and 0 <= x < 4:
                        total += kernel[a][b] * mean[y][x]
            total = (total - norm.running_mean.item()) / math.sqrt(norm.running_var.item() + norm.eps)
            coarse[i][j] = max(total * norm.weight.item() + norm.bias.item(), 0.0)

    def axis(i: int) -> list[tuple[int, float]]:
        """Weights of the two coarse positions for one fine position: pixel centres, repeated border."""
        at = min(max((i + 0.5) / 2 - 0.5, 0.0), 1.0)
        return [(0, 1 - at), (1, at)]

    channel = through(module.channel[1], through(module.channel[0], [sum(map(sum, image[c])) / 16 for c in range(8)]))
    mask = module(given)[0]
    for i in range(4):
        for j in range(4):
            fine = sum(coarse[a][b] * u * v for a, u in axis(i) for b, v in axis(j))
            (place,) = through(module.place, [fine])
            expected = [sigmoid(x) for x in linear(module.mix, [place * e for e in channel])]
            assert mask[:, i, j].tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_se_and_conv_by_loops() -> None:
    given = maps(2, 3, 2)
    se, conv = trained(made("se")), trained(made("conv"))
    assert isinstance(se, SqueezeExcite) and isinstance(conv, Pointwise)
    for n, image in enumerate(given.tolist()):
        pooled = [sum(map(sum, plane)) / 6 for plane in image]
        hidden = [max(x, 0.0) for x in linear(se.squeeze, pooled)]
        assert se(given)[n, :, 0, 0].tolist() == pytest.approx([sigmoid(x) for x in linear(se.excite, hidden)], abs=1e-5)
        for i in range(3):
            for j in range(2):
                place = [plane[i][j] for plane in image]
                expected = [sigmoid(x) for x in linear(conv.mix, through(conv.inner, place))]
                assert conv(given)[n, :, i, j].tolist() == pytest.approx(expected, abs=1e-5)


def places_by_loops(module: Places, image: list[list[list[float]]]) -> list[list[float]]:
    kernel, bias = module.conv.weight[0].tolist(), module.conv.bias.item()  # type: ignore[union-attr]
    height, width = len(image[0]), len(image[0][0])
    out = []
    for i in range(height):
        row = []
        for j in range(width):
            total = bias
            for a in range(7):
                for b in range(7):
                    y, x = i + a - 3, j + b - 3
                    if 0 <= y < height and 0 <= x < width:
                        column = [plane[y][x] for plane in image]
                        total += kernel[0][a][b] * sum(column) / len(column) + kernel[1][a][b] * max(column)
            row.append(sigmoid(total))
        out.append(row)
    return out


@torch.no_grad()
def test_spatial_and_cbam_by_loops() -> None:
    given = maps(1, 3, 4)
    (image,) = given.tolist()
    spatial, cbam = made("spatial"), made("cbam")
    assert isinstance(spatial, Places)
    expected = torch.tensor(places_by_loops(spatial, image))
    assert torch.allclose(spatial(given)[0, 0], expected, atol=1e-5)
    squeeze, excite = cbam.channels.squeeze, cbam.channels.excite  # type: ignore[union-attr]
    mean = linear(squeeze, [sum(map(sum, plane)) / 12 for plane in image])  # type: ignore[arg-type]
    most = linear(squeeze, [max(map(max, plane)) for plane in image])  # type: ignore[arg-type]
    hidden = [max(a, 0.0) + max(b, 0.0) for a, b in zip(mean, most)]
    channel = [sigmoid(x) for x in linear(excite, hidden)]  # type: ignore[arg-type]
    gated = [[[gate * v for v in row] for row in plane] for gate, plane in zip(channel, image)]
    places = torch.tensor(places_by_loops(cbam.places, gated))  # type: ignore[arg-type]
    assert torch.allclose(cbam(given)[0], torch.tensor(channel)[:, None, None] * places, atol=1e-5)
