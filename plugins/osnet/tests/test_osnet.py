"""OSNet: the paper's structure, torchreid's weight files, and a second implementation of the block."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reidx_osnet.embedding import Embedding
from reidx_osnet.model import WIDTHS, AggregationGate, LiteConv, OSBlock, OSNet
from torch import Tensor, nn

from reidx import ReID
from reidx.errors import CheckpointError, ConfigError
from reidx.models.key_maps import suggest_model
from reidx.models.weights import read_weights

WEIGHTS = Path(__file__).parents[4] / "shared" / "weights"
FILES = {name: WEIGHTS / f"osnet_x0_25_{name}.pth" for name in ("imagenet", "msmt17")}


def published(name: str) -> str:
    if not FILES[name].is_file():
        pytest.skip(f"the published weights are not here ({FILES[name].name} in ../shared/weights)")
    return str(FILES[name])


@pytest.fixture(scope="module")
def small() -> OSNet:
    torch.manual_seed(0)
    return OSNet(0.25, image_size=(128, 64)).eval()


def expected_parameters(width: float) -> int:
    """Count the parameters by table 1 of the paper: convolutions without bias, two numbers per BatchNorm channel."""
    stem, *stages = (int(c * width) for c in (64, 256, 384, 512))
    total = 3 * 49 * stem + 2 * stem
    c_in = stem
    for number, c_out in enumerate(stages):
        for source in (c_in, c_out):
            mid = c_out // 4
            hidden = mid // 16
            lite = mid * mid + 9 * mid + 2 * mid
            gate = mid * hidden + hidden + hidden * mid + mid
            total += source * mid + 2 * mid + 10 * lite + gate + mid * c_out + 2 * c_out
            total += source * c_out + 2 * c_out if source != c_out else 0
        if number < 2:
            total += c_out * c_out + 2 * c_out
        c_in = c_out
    return total + c_in * c_in + 2 * c_in


@pytest.mark.parametrize("width", WIDTHS)
def test_size_is_that_of_the_paper(width: float) -> None:
    model = OSNet(width)
    assert sum(p.numel() for p in model.parameters()) == expected_parameters(width)
    assert model.out_channels == 512 * width
    whole = expected_parameters(width) + sum(p.numel() for p in Embedding(model.out_channels).parameters())
    # the four published networks without their classifiers, in thousands of parameters
    assert round(whole / 1000) == {1.0: 2170, 0.75: 1286, 0.5: 630, 0.25: 202}[width]


@pytest.mark.parametrize("image_size", [(256, 128), (128, 64), (384, 128), (141, 67)])
def test_map(image_size: tuple[int, int]) -> None:
    model = OSNet(0.25, image_size=image_size).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, *image_size))
    assert maps.shape == (1, model.out_channels, *model.map_size)
    assert maps.min() >= 0
    assert model.nonnegative


def test_map_keeps_the_place(small: OSNet) -> None:
    images = torch.randn(1, 3, 128, 64)
    for axis in (2, 3):
        changed = images.clone()
        changed.narrow(axis, 0, changed.shape[axis] // 4).mul_(-1)
        with torch.no_grad():
            difference = (small(changed) - small(images)).abs().sum((0, 1)).sum(dim=3 - axis)
        half = len(difference) // 2
        assert difference[:half].sum() > 2 * difference[half:].sum()


def test_every_parameter_learns() -> None:
    model = OSNet(0.25)
    model(torch.randn(2, 3, 64, 32)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def naive_block(block: OSBlock, x: Tensor) -> Tensor:
    """Compute the block of the ICCV paper, one stream and one image at a time."""

    def norm(y: Tensor, bn: nn.BatchNorm2d) -> Tensor:
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        return y * scale.view(1, -1, 1, 1) + (bn.bias - bn.running_mean * scale).view(1, -1, 1, 1)

    def lite(y: Tensor, unit: LiteConv) -> Tensor:
        mixed = torch.einsum("oi,bihw->bohw", unit.conv1.weight[:, :, 0, 0], y)
        padded, (h, w) = F.pad(mixed, (1, 1, 1, 1)), mixed.shape[2:]
        shifted = sum(
            unit.conv2.weight[:, 0, i, j].view(1, -1, 1, 1) * padded[:, :, i : i + h, j : j + w]
            for i in range(3)
            for j in range(3)
        )
        return norm(shifted, unit.bn).clamp(min=0)

    def pointwise(y: Tensor, unit: nn.Module) -> Tensor:
        return norm(torch.einsum("oi,bihw->bohw", unit.conv.weight[:, :, 0, 0], y), unit.bn)

    def gate(vector: Tensor, fused: AggregationGate) -> Tensor:
        hidden = (fused.fc1.weight[:, :, 0, 0] @ vector + fused.fc1.bias).clamp(min=0)
        return torch.sigmoid(fused.fc2.weight[:, :, 0, 0] @ hidden + fused.fc2.bias)

    start = pointwise(x, block.conv1).clamp(min=0)
    summed = torch.zeros_like(start)
    for units in ([block.conv2a], block.conv2b, block.conv2c, block.conv2d):
        stream = start
        for unit in units:
            stream = lite(stream, unit)
        for i in range(len(x)):
            summed[i] += gate(stream[i].mean((1, 2)), block.gate).view(-1, 1, 1) * stream[i]
    shortcut = x if isinstance(block.downsample, nn.Identity) else pointwise(x, block.downsample)
    return (pointwise(summed, block.conv3) + shortcut).clamp(min=0)


@pytest.mark.parametrize("channels", [(64, 64), (32, 64)])
def test_block_is_the_formula(channels: tuple[int, int]) -> None:
    torch.manual_seed(1)
    block = OSBlock(*channels)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    block.eval()
    x = torch.randn(3, channels[0], 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(block(x), naive_block(block, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_published_files_load_whole(name: str) -> None:
    path = published(name)
    model, head = OSNet(0.25, weights=path), Embedding(128, weights=path)
    state = torch.load(path, weights_only=True)
    own = {**model.state_dict(), **head.state_dict()}
    assert set(state) - set(own) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(own[key], state[key]) for key in own)


def test_published_embedding() -> None:
    """The vector of a gradient image has the length and the four largest entries of torchreid's network."""
    path = published("msmt17")
    model, head = OSNet(0.25, weights=path).eval(), Embedding(128, weights=path).eval()
    rows, columns = torch.linspace(-1, 1, 256).view(-1, 1), torch.linspace(-1, 1, 128)
    image = torch.stack([rows + 0 * columns, columns + 0 * rows, rows * columns])[None]
    with torch.no_grad():
        vector = head(model(image))["embed"][0]
    assert vector.shape == (512,)
    assert vector.norm().item() == pytest.approx(20.3203, abs=1e-3)
    largest = vector.topk(4)
    assert largest.indices.tolist() == [385, 213, 386, 140]
    assert largest.values.tolist() == pytest.approx([4.4078, 3.8863, 3.8766, 3.3043], abs=1e-3)


@pytest.mark.parametrize(
    "build", [lambda path: OSNet(0.5, weights=path), lambda path: Embedding(64, weights=path)]
)
def test_file_of_another_width(build, tmp_path: Path) -> None:
    path = str(tmp_path / "quarter.pth")
    torch.save({**OSNet(0.25).state_dict(), **Embedding(128).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"of another shape: .*weight \(file .*, model "):
        build(path)


def test_file_of_something_else(tmp_path: Path) -> None:
    path = str(tmp_path / "other.pth")
    torch.save(nn.Linear(3, 4).state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"missing in the file: conv1\.conv\.weight.*unknown to the model: weight, bias"
    ):
        OSNet(0.25, weights=path)
    with pytest.raises(CheckpointError, match=r"missing in the file: fc\.0\.weight"):
        Embedding(128, weights=path)


def test_wrapped_file(tmp_path: Path, small: OSNet) -> None:
    path = str(tmp_path / "wrapped.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in small.state_dict().items()}, "epoch": 3}, path)
    loaded = OSNet(0.25, weights=path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), small.state_dict().values()))


def test_unknown_width() -> None:
    with pytest.raises(
        ConfigError, match=r"width 0\.3 does not exist; choose one of 1\.0, 0\.75, 0\.5, 0\.25"
    ):
        OSNet(0.3)


def test_embedding_by_hand() -> None:
    head = Embedding(2, dim=3).eval()
    with torch.no_grad():
        head.fc[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]]))
        head.fc[0].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    maps = torch.tensor([[[[1.0, 3.0]], [[2.0, 6.0]]]])  # means 2 and 4
    features = head(maps)
    assert head.dims == {"embed": 3, "global": 3}
    assert set(features) == {"embed", "global"}
    torch.testing.assert_close(features["embed"], torch.tensor([[3.0, 8.0, 0.0]]), rtol=1e-4, atol=1e-4)


def test_embedding_at_each_map_position(tmp_path: Path) -> None:
    plain, head = OSNet(0.25), Embedding(128)
    for module in (*plain.modules(), *head.modules()):
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean)
    file = tmp_path / "whole.pth"
    torch.save({**plain.state_dict(), **head.state_dict()}, file)
    backbone = OSNet(0.25, weights=str(file), with_embedding=True).eval()
    images = torch.randn(2, 3, 64, 32)
    maps, narrow = backbone(images), plain.eval()(images)
    assert maps.shape == (2, 512, *narrow.shape[2:])
    assert backbone.out_channels == 512
    for y, x in ((0, 0), (3, 1)):  # a position equals the embedding of a map with only that position
        assert torch.allclose(maps[:, :, y, x], head.eval()(narrow[:, :, y : y + 1, x : x + 1])["embed"], atol=1e-5)


@pytest.mark.parametrize("with_embedding", [False, True])
def test_cut_tail_continues_the_map(with_embedding: bool) -> None:
    net = OSNet(0.25, with_embedding=with_embedding).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        whole, channels = net(images), net.out_channels
        tail = net.cut()
        maps = net(images)
        assert torch.allclose(tail(maps), whole, atol=1e-6)
    assert tail.out_channels == channels
    assert maps.shape[1:] == (net.out_channels, *whole.shape[2:])
    assert not {id(p) for p in net.parameters()} & {id(p) for p in tail.parameters()}


def test_hooks_without_torch() -> None:
    code = (
        "import sys, reidx_osnet as p; info = p.reidx_plugin(); names = [c.name for c in p.reidx_components()];"
        "assert info.api == 1, info.api; assert info.licence == 'Apache-2.0', info.licence;"
        "assert names == ['OSNet', 'Embedding', 'Torchreid'], names; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_file_of_torchreid_is_recognised(width: float, tmp_path: Path) -> None:
    """A checkpoint suggests its width and head; a file without the linear layer, mean pooling."""
    trunk, head = OSNet(width).state_dict(), Embedding(int(512 * width)).state_dict()
    path = tmp_path / "model.pth.tar-3"
    for state, fusion in (({**trunk, **head}, "osnet.Embedding"), (trunk, "GlobalPool")):
        named = {f"module.{name}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": named, "epoch": 3, "rank1": np.float64(0.5)}, path)
        model = suggest_model(read_weights(path), str(path))
        assert model["backbone"] == {"type": "osnet.OSNet", "width": width, "weights": str(path)}
        assert model["fusion"]["type"] == fusion
        loaded = OSNet(width, weights=str(path))
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in trunk.items())
        left = "; left out: fc (7)" if "fc.0.weight" in state else ""
        assert loaded.notes()[0].endswith(f" tensors are taken{left}; layout osnet.Torchreid")


def test_file_of_torchreid_needs_no_config(tmp_path: Path) -> None:
    """The embeddings of ``ReID.load`` are those of the backbone and the head, scaled to length 1."""
    backbone, head = OSNet(0.25).eval(), Embedding(128).eval()
    for module in (*backbone.modules(), *head.modules()):
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
    path = tmp_path / "osnet.pth"
    torch.save({**backbone.state_dict(), **head.state_dict()}, path)
    model, images = ReID.load(path), torch.rand(2, 3, 256, 128)
    assert model.dim == 512
    with torch.no_grad():
        mean, std = (torch.tensor(values)[:, None, None] for values in (OSNet.mean, OSNet.std))
        expected = F.normalize(head(backbone((images - mean) / std))["embed"])
    torch.testing.assert_close(model.embed(images), expected, atol=1e-4, rtol=1e-3)
