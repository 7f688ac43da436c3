"""The forms of Roboflow's `reid` and of boxmot: their contents here, and their loading by the real packages where installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from reidx.errors import ConfigError
from reidx.export import onnx_file
from reidx.export.write import export
from reidx.inference import ReID

OSNET = {"type": "osnet.OSNet", "width": 0.25}
EMBEDDING = {"type": "osnet.Embedding", "normalize": True}
PLAIN = {"type": "GlobalPool", "pool": "avg", "neck": False}
LITE = {"type": "Timm", "name": "tf_efficientnet_lite0"}
VIT = {"type": "Timm", "name": "test_vit", "tokens": ["class_token"]}

needs_onnx = pytest.mark.skipif(bool(onnx_file.missing()), reason="the extra export is not installed")


def needs(package: str) -> pytest.MarkDecorator:
    reason = f"the package {package} is not installed"
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=reason)


@pytest.fixture
def crops(tmp_path: Path) -> list[str]:
    """Paths of images of the network's size, which no program resizes."""
    paths = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.mark.parametrize(
    ("backbone", "fusion", "architecture"),
    [(OSNET, EMBEDDING, "osnet_x0_25"), (LITE, PLAIN, "timm:tf_efficientnet_lite0")],
    ids=["osnet", "timm"],
)
def test_roboflow_folder_names_architecture_and_images(make, tmp_path: Path, backbone, fusion, architecture) -> None:  # type: ignore[no-untyped-def]
    model = make(backbone, fusion)
    assert export(model, tmp_path / "net", "roboflow").cosine == pytest.approx(1)
    config = json.loads((tmp_path / "net" / "reid_config.json").read_text())
    assert config["architecture"] == architecture
    assert config["preprocessing"]["input_size"] == [64, 32] and config["preprocessing"]["interpolation"] == "bilinear"
    assert config["preprocessing"]["mean"] == list(model.mean) and config["preprocessing"]["to_rgb"] is True
    assert {path.name for path in (tmp_path / "net").iterdir()} == {"README.md", "reid_config.json", "weights.safetensors"}


@pytest.mark.parametrize(
    ("backbone", "fusion"),
    [
        (OSNET, "GlobalPool"),
        ({**OSNET, "with_embedding": True}, EMBEDDING),
        (OSNET, {**EMBEDDING, "dim": 64}),
        ("test_resnet", {**PLAIN, "pool": "gem"}),
        ("test_resnet", {**PLAIN, "neck": True}),
    ],
)
def test_network_without_an_architecture_is_refused(make, tmp_path: Path, backbone, fusion) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="none stands for"):
        export(make(backbone, fusion), tmp_path / "net", "roboflow")
    assert not (tmp_path / "net").exists()


@needs("reid")
@pytest.mark.parametrize(("backbone", "fusion"), [(OSNET, EMBEDDING), (LITE, PLAIN)], ids=["osnet", "timm"])
def test_real_reid_embeds_as_the_original(make, tmp_path: Path, crops: list[str], backbone, fusion) -> None:  # type: ignore[no-untyped-def]
    from reid import ReIDModel

    model = make(backbone, fusion)
    export(model, tmp_path / "net", "roboflow")
    found = ReIDModel.from_pretrained(str(tmp_path / "net"), device="cpu").extract_embeddings_from_paths(crops)
    assert torch.allclose(F.normalize(torch.from_numpy(found), dim=1), model.embed(crops), atol=1e-5)


@needs("reid")
def test_real_reid_takes_any_network_as_architecture(small: ReID, crops: list[str]) -> None:
    from reid import ReIDModel
    from reid.preprocessing import ReIDPreprocessing

    steps = ReIDPreprocessing(input_size=small.image_size, mean=small.mean, std=small.std, interpolation=small.interpolation)
    model = ReIDModel.from_pretrained(architecture=small.network, preprocessing=steps, device="cpu")
    assert torch.allclose(torch.from_numpy(model.extract_embeddings_from_paths(crops)), small.embed(crops), atol=1e-5)


@needs_onnx
def test_boxmot_file_takes_its_normalisation(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = make(VIT, "ClassToken")
    assert model.mean == (0.5, 0.5, 0.5)
    assert export(model, tmp_path / "net.onnx", "boxmot").cosine == pytest.approx(1)
    facts = json.loads((tmp_path / "net.onnx.metadata.json").read_text())
    assert facts["img_size"] == facts["model_kwargs"]["img_size"] == [64, 32] and facts["preprocess"] == "resize"


@needs_onnx
@needs("boxmot")
def test_real_boxmot_embeds_as_the_original(make, tmp_path: Path, crops: list[str]) -> None:  # type: ignore[no-untyped-def]
    from boxmot.reid.backends.dependencies import reid_backend_requirements
    from boxmot.reid.core.runtime import ReID as BoxmotReID
    from boxmot.utils.checks import requirement_satisfied

    if not all(map(requirement_satisfied, reid_backend_requirements("onnx"))):
        pytest.skip("boxmot would install another onnxruntime here")
    model = make(VIT, "ClassToken")
    export(model, tmp_path / "net.onnx", "boxmot")
    backend = BoxmotReID(tmp_path / "net.onnx", device="cpu").model
    for path, wanted in zip(crops, model.embed(crops), strict=True):
        frame = np.asarray(Image.open(path))[:, :, ::-1].copy()  # boxmot's frames are BGR
        found = backend.get_features(np.array([[0, 0, 32, 64]]), frame)
        assert torch.allclose(torch.from_numpy(found)[0].float(), wanted, atol=1e-4)
