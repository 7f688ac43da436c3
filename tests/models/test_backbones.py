"""The contract of a backbone, over the families of timm."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from reidx.errors import CheckpointError, ConfigError
from reidx.models import backbones
from reidx.models.backbones import Timm

# name, channels, reduction from image to map
FAMILIES = [
    ("resnet18", 512, 16),
    ("resnet50", 2048, 16),
    ("vit_tiny_patch16_224", 192, 16),
    ("deit_tiny_distilled_patch16_224", 192, 16),
    ("eva02_tiny_patch14_224", 192, 14),  # norms behind its pooling
    ("swin_tiny_patch4_window7_224", 768, 32),
    ("xcit_nano_12_p16_224", 128, 16),
    ("coat_lite_tiny", 320, 32),  # blocks share their encodings
    ("convnext_atto", 320, 32),
    ("mobilenetv3_small_050", 288, 32),
    ("efficientnet_b0", 1280, 32),
]
SIZE = (256, 128)
SMALL = (128, 64)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family[0])
def built(request: pytest.FixtureRequest) -> tuple[Timm, int, int]:
    name, channels, reduction = request.param
    torch.manual_seed(0)
    return Timm(name, image_size=SIZE), channels, reduction


def test_map(built: tuple[Timm, int, int]) -> None:
    model, channels, reduction = built
    model.eval()
    with torch.no_grad():
        maps = model(torch.randn(2, 3, *SIZE))
        again = model(torch.zeros(1, 3, *SIZE)), model(torch.zeros(1, 3, *SIZE))
    assert maps.shape == (2, channels, SIZE[0] // reduction, SIZE[1] // reduction)
    assert model.out_channels == channels and model.map_size == tuple(maps.shape[2:])
    assert torch.equal(*again)
    assert maps.std() > 0
    assert model.nonnegative <= bool((maps >= 0).all())


@pytest.mark.parametrize("axis", [2, 3], ids=["vertical", "horizontal"])
def test_map_keeps_the_place(built: tuple[Timm, int, int], axis: int) -> None:
    """A change at one edge of the image changes the map mainly near that edge."""
    model = built[0].eval()
    torch.manual_seed(0)
    images, length = torch.randn(2, 3, *SIZE), SIZE[axis - 2]
    centres = []
    with torch.no_grad():
        before = model(images)
        for start in (0, length - length // 4):
            changed = images.clone()
            edge = changed.narrow(axis, start, length // 4)
            edge.add_(torch.randn(edge.shape), alpha=2)
            change = (model(changed) - before).abs().sum((0, 1)).sum(dim=3 - axis)
            centres.append((change * torch.linspace(0, 1, len(change))).sum() / change.sum())
    assert centres[0] + 0.1 < centres[1]


def test_every_trainable_parameter_gets_a_gradient(built: tuple[Timm, int, int]) -> None:
    model = built[0].train()
    model.zero_grad(set_to_none=True)
    maps: Tensor = model(torch.randn(2, 3, *SIZE))
    (maps * torch.randn_like(maps)).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    # XCiT's class token is only used behind the map; a single parameter cannot be removed
    assert idle == (["model.cls_token"] if isinstance(model.model, timm.models.Xcit) else [])
    assert all(p.requires_grad == (name not in idle) for name, p in model.named_parameters())


@pytest.mark.parametrize("name", ["coat_lite_tiny", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_removing_unused_parts_keeps_the_map(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, *SMALL, generator=torch.Generator().manual_seed(0))

    def map_of() -> Tensor:
        torch.manual_seed(0)
        return Timm(name, image_size=SMALL).eval()(images)

    maps = map_of()
    monkeypatch.setattr(backbones, "_drop_unused", lambda *_: None)
    torch.testing.assert_close(maps, map_of(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "built", [f for f in FAMILIES if f[0] != "resnet50"], ids=lambda f: f[0], indirect=True
)
def test_state_round_trip(built: tuple[Timm, int, int], request: pytest.FixtureRequest) -> None:
    model = built[0].eval()
    torch.manual_seed(1)
    other = Timm(request.node.callspec.params["built"][0], image_size=SIZE).eval()
    images = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        before = model(images)
        assert not torch.equal(other(images), before)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), before)


@pytest.mark.parametrize("image_size", [(128, 64), (384, 128), (250, 122)])
@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050"]
)
def test_any_image_size(name: str, image_size: tuple[int, int]) -> None:
    model = Timm(name, image_size=image_size).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, *image_size))
    assert maps.shape == (1, model.out_channels, *model.map_size)
    height, width = model.map_size
    assert abs(height / width - image_size[0] / image_size[1]) < 0.3


def test_last_stride_of_a_resnet() -> None:
    sizes = {stride: Timm("resnet18", last_stride=stride).map_size for stride in (None, 1, 2)}
    assert sizes == {None: (16, 8), 1: (16, 8), 2: (8, 4)}
    trunk, plain = Timm("resnet18").model, timm.create_model("resnet18")
    assert all(conv.dilation == (1, 1) for conv in trunk.modules() if isinstance(conv, nn.Conv2d))
    kept = {n: p.shape for n, p in plain.named_parameters() if not n.startswith("fc.")}
    assert {n: p.shape for n, p in trunk.named_parameters()} == kept


@pytest.mark.parametrize(
    "name", ["resnet26d", "seresnet50", "resnest14d", "res2net50_26w_4s", "resnetblur50"]
)
def test_last_stride_of_resnet_kin(name: str) -> None:
    assert Timm(name, image_size=(64, 64)).map_size == (4, 4)


def test_stride_1_contains_stride_2() -> None:
    """Without its stride, the first block sees the same windows and those between them."""
    torch.manual_seed(0)
    one, two = (
        Timm("resnet18", image_size=(64, 64)).eval(),
        Timm("resnet18", last_stride=2, image_size=(64, 64)).eval(),
    )
    two.load_state_dict(one.state_dict())
    x = torch.randn(1, 256, 4, 4)
    with torch.no_grad():
        block, strided = one.model.layer4[0], two.model.layer4[0]
        torch.testing.assert_close(block.bn1(block.conv1(x))[..., ::2, ::2], strided.bn1(strided.conv1(x)))
        torch.testing.assert_close(block.downsample(x)[..., ::2, ::2], strided.downsample(x))


def test_building_leaves_batch_norm_untouched() -> None:
    norms = [m for m in Timm("resnet18", image_size=SMALL).modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.running_mean == 0).all() and m.num_batches_tracked == 0 and m.training for m in norms)


def test_backbone_has_no_init_weights() -> None:
    """mmengine calls ``init_weights`` of each child that has it, which would overwrite loaded weights."""
    assert not hasattr(Timm("vit_tiny_patch16_224", image_size=SMALL), "init_weights")


def test_normalisation_is_that_of_the_weights() -> None:
    assert Timm("resnet18", image_size=SMALL).mean == (0.485, 0.456, 0.406)
    vit = Timm("vit_tiny_patch16_224", image_size=SMALL)
    assert vit.mean == vit.std == (0.5, 0.5, 0.5)


def test_drop_path() -> None:
    torch.manual_seed(0)
    model = Timm("vit_tiny_patch16_224", drop_path=0.5, image_size=SMALL).train()
    images = torch.randn(2, 3, *SMALL)
    assert not torch.equal(model(images), model(images))
    with pytest.raises(ConfigError, match="vgg11 has no drop path"):
        Timm("vgg11", drop_path=0.5, image_size=SMALL)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_file(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, path = timm.create_model("resnet18").eval(), str(tmp_path / f"r18{suffix}")
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    model = Timm("resnet18", weights=path, last_stride=2, image_size=SMALL).eval()
    images = torch.randn(1, 3, *SMALL)
    with torch.no_grad():
        torch.testing.assert_close(model(images), source.forward_features(images))
    assert "state_dict" not in model.model.pretrained_cfg


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_weights_of_another_image_size(name: str, tmp_path: Path) -> None:
    source, path = timm.create_model(name), str(tmp_path / "square.pth")
    torch.save(source.state_dict(), path)
    model = Timm(name, weights=path, image_size=SMALL)
    own, given = model.model.state_dict(), source.state_dict()
    resized = [key for key in own if own[key].shape != given[key].shape]
    assert resized and all("pos_embed" in key or "relative_position" in key for key in resized)
    assert all(torch.equal(own[key], given[key]) for key in own if key not in resized)
    if "pos_embed" in own:
        assert own["pos_embed"].shape[1] == 1 + 8 * 4
        assert torch.equal(own["pos_embed"][:, 0], given["pos_embed"][:, 0])  # the class token has no place
        assert own["pos_embed"][:, 1:].mean().item() == pytest.approx(
            given["pos_embed"][:, 1:].mean().item(), abs=1e-3
        )


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    path = str(tmp_path / "bad.pth")
    torch.save({k: v for k, v in state.items() if k != "layer2.0.conv1.weight"}, path)
    with pytest.raises(CheckpointError, match=r"Missing key.*layer2\.0\.conv1\.weight"):
        Timm("resnet18", weights=path, image_size=SMALL)
    torch.save({**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"size mismatch for conv1\.weight"):
        Timm("resnet18", weights=path, image_size=SMALL)
    torch.save(state, path)
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"):
        with pytest.raises(CheckpointError, match=f"does not fit timm's {name}"):
            Timm(name, weights=path, image_size=SMALL)


def test_unreadable_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        Timm("resnet18", weights=str(tmp_path / "absent.pth"))
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"broken\.pth could not be read"):
        Timm("resnet18", weights=str(broken))
    code = tmp_path / "code.pth"
    torch.save({"weights": Path("x")}, code)  # only unsafe loading would build this object
    with pytest.raises(CheckpointError, match=r"code\.pth could not be read"):
        Timm("resnet18", weights=str(code))
    empty = tmp_path / "empty.pth"
    torch.save({"epoch": 3}, empty)
    with pytest.raises(CheckpointError, match="no named tensors"):
        Timm("resnet18", weights=str(empty))


def test_pretrained_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in a test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("reidx.models.pretrained.getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(ConfigError, match=r"resnet18 could not be downloaded .*`weights: PATH`"):
        Timm("resnet18", pretrained=True, image_size=SMALL)
    assert before == constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet5O"}, "no model 'resnet5O'. Did you mean .*resnet50"),
        ({"name": "resnet18.nonsense"}, "no weights tagged 'nonsense'; there are: .*resnet18.a1_in1k"),
        ({"name": "resnet18", "last_stride": 3}, "last_stride is 3"),
        (
            {"name": "convnext_atto", "last_stride": 1},
            "last_stride applies only to ResNets, and ConvNeXt is none",
        ),
        ({"name": "resnet18", "pretrained": True, "weights": "x.pth"}, "not both"),
        (
            {"name": "convnext_atto", "image_size": (16, 8)},
            r"convnext_atto gives no feature map for 16x8 images \(.*\), but it does for 224x224 images. Choose another",
        ),
        ({"name": "nest_tiny"}, "nest_tiny cannot be built for 256x128 images .*square"),
        ({"name": "mvitv2_tiny"}, r"mvitv2_tiny cannot be built for 256x128 images \(AssertionError: assert feat_size"),
    ],
)
def test_invalid_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Timm(**settings)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hiera_tiny_224", "before the final norm only"),
        ("coat_tiny", "a list of 3 feature tensors, not a single map"),
        ("efficientvim_m1", "a list of 4 feature tensors, not a single map"),
    ],
)
def test_model_without_a_map_is_refused(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} gives no feature map at any image size: .*{why}") as caught:
        Timm(name, image_size=SMALL)
    assert "image_size" not in str(caught.value) and "Choose another model" in str(caught.value)


def test_norm_behind_linear_layer_is_not_applied() -> None:
    """The norm of InceptionNeXt has 960 channels, the map 320."""
    model = Timm("inception_next_atto", image_size=SMALL).eval()
    images = torch.rand(1, 3, *SMALL)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.model.forward_features(images))
    assert model.map_size == (4, 2) and not any(name.startswith("model.head") for name, _ in model.named_parameters())


def test_norm_of_equal_width_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm with the map's number of channels need not apply to the map."""
    build = timm.create_model

    def narrow(*args: Any, **kwargs: Any) -> nn.Module:
        model = build(*args, **kwargs)
        model.head.fc1, model.head.norm = nn.Linear(320, 320), nn.LayerNorm(320)
        return model

    monkeypatch.setattr(timm, "create_model", narrow)
    model = Timm("inception_next_atto", image_size=SMALL).eval()
    images = torch.rand(1, 3, *SMALL)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.model.forward_features(images))


def test_norm_after_the_pooling_is_applied() -> None:
    model = Timm("convnext_atto", image_size=SMALL).eval()
    images = torch.rand(1, 3, *SMALL)
    with torch.no_grad():
        raw = model.model.forward_features(images)
        by_hand = torch.nn.functional.layer_norm(raw.permute(0, 2, 3, 1), (320,), eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(model(images), by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "image_size", "lost", "fit"),
    [
        ("eva02_tiny_patch14_224", (128, 64), "2 rows and 8 columns", ["[126, 56]", "[140, 70]"]),
        ("vit_tiny_patch16_224", (256, 130), "2 columns", ["[256, 128]", "[256, 144]"]),
        ("vit_tiny_patch16_224", (241, 128), "1 row", ["[240, 128]", "[256, 128]"]),
        ("convnext_atto", (130, 66), "2 rows and 2 columns", ["[128, 64]"]),
        ("swin_tiny_patch4_window7_224", (130, 66), "2 rows and 2 columns", ["[128, 64]", "[132, 68]"]),
    ],
)
def test_pixels_outside_all_patches_are_reported(
    name: str, image_size: tuple[int, int], lost: str, fit: list[str]
) -> None:
    model = Timm(name, image_size=image_size).eval()
    (note,) = model.notes()
    assert f"the last {lost} of {image_size[0]}x{image_size[1]} images" in note
    assert all(size in note for size in fit)
    for size in fit:  # these sizes lose no pixel
        assert Timm(name, image_size=tuple(json.loads(size))).notes() == []
    # the note is true: the map ignores these pixels, and no others
    height, width = map(int, fit[0][1:-1].split(","))
    images = torch.rand(1, 3, *image_size)
    blind, seen = images.clone(), images.clone()
    blind[:, :, height:], blind[:, :, :, width:] = 0, 0
    seen[:, :, height - 1], seen[:, :, :, width - 1] = 0, 0
    with torch.no_grad():
        maps = model(images)
        assert torch.equal(model(blind), maps) and not torch.equal(model(seen), maps)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenetv3_small_050", "efficientnet_b0"])
def test_models_that_pad_lose_no_pixel(name: str) -> None:
    assert Timm(name, image_size=(141, 67)).notes() == []


@pytest.mark.parametrize("size", [(0, 0), (-256, 128), (256, 0)])
def test_image_size_of_weights_must_be_positive(size):
    with pytest.raises(ConfigError, match=r"weights_image_size is \[.*\]; it must be two numbers of pixels"):
        Timm("test_vit", image_size=(160, 160), weights_image_size=size)
