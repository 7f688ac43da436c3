"""Embeddings of a run's network equal the features that its evaluation ranks, for images in every form."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import reidx
from reidx.checks.load import load_config
from reidx.contracts import Features
from reidx.data.decode import CorruptImage, decode
from reidx.data.images import resized
from reidx.engine import stage as stage_module
from reidx.engine.cross_test import test_runs as evaluate_runs
from reidx.errors import CheckpointError, ConfigError, DataError
from reidx.inference import ReID
from reidx.inference.sources import Trained
from reidx.labels.features import unit
from reidx.models.network import Network
from reidx.testing.networks import TeachingHead, TinyBackbone, tiny_network
from reidx.testing.tiny import IMAGE_SIZE, load_experiment, tiny_domain, tiny_experiment


@pytest.fixture(scope="module")
def model(finished: Path) -> ReID:
    return ReID.load(finished)


@pytest.fixture
def folder(domains_root: Path) -> Path:
    return domains_root / "target" / "query"


def decoded(paths: list[Path], size: tuple[int, int], interpolation: str) -> Tensor:
    """Return the images of files at a size: integers (N,3,H,W) in 0..255."""
    return torch.stack([torch.from_numpy(resized(decode(str(path)), size, interpolation)) for path in paths])


def ranked_features(run: Path) -> tuple[Tensor, Tensor]:
    """Return the features that the test of a run ranks: those of the queries and of the gallery."""
    with mock.patch.object(stage_module, "evaluate", wraps=stage_module.evaluate) as ranked:
        (cell,) = evaluate_runs([run], {}, progress="quiet")
    assert cell.result is not None, cell.reason
    return ranked.call_args.args[:2]


def test_embeddings_are_the_ranked_features(finished: Path, model: ReID) -> None:
    dataset = reidx.build("dataset", load_config(finished / "config.yaml").data["data"]["domains"]["target"])
    for split, features in zip((dataset.query, dataset.gallery), ranked_features(finished)):
        assert torch.equal(model.embed(split.paths), torch.nn.functional.normalize(features, dim=1))


def test_domain_batch_norm_is_that_of_the_tested_domain(domains_root: Path, tmp_path: Path) -> None:
    streams = {
        "source": {"domain": "source", "labels": "identity", "sampler": {"type": "PK", "identities": 4, "instances": 2}},
        "target": {"domain": "target", "labels": None, "sampler": {"type": "Shuffle", "batch": 8}},
    }
    objective, alignment = [{"loss": "Triplet", "stream": "source"}], [{"alignment": "MMD", "weight": 0.1}]
    parts = {"streams": streams, "labels": None, "memories": None, "objective": objective, "alignment": alignment}
    experiment = tiny_experiment(domains_root, **parts)
    experiment["data"]["domains"]["source"] = tiny_domain(domains_root, "source")
    experiment["model"]["domain_bn"] = True
    experiment["stages"] = [{"name": "both", "epochs": 1, "iters": 2}]
    reidx.run(load_experiment(tmp_path, experiment), tmp_path / "run", progress="quiet")
    queries = reidx.build("dataset", tiny_domain(domains_root)).query.paths
    assert torch.allclose(ReID.load(tmp_path / "run").embed(queries), unit(ranked_features(tmp_path / "run")[0]), atol=1e-6)


def test_forms_of_images_agree(model: ReID, folder: Path) -> None:
    expected, paths = model.embed(folder), sorted(folder.glob("*"))
    images = [decode(str(path)) for path in paths]
    arrays = [np.asarray(image) for image in images]
    floats = torch.stack([torch.from_numpy(resized(image, IMAGE_SIZE, "bicubic")) for image in images]) / 255
    assert expected.shape == (len(paths), model.dim) and expected.dtype == torch.float32
    for form in (paths, [str(path) for path in paths], images, arrays, np.stack(arrays)):
        assert torch.equal(model.embed(form), expected)
    assert torch.allclose(model.embed(floats), expected, atol=1e-5)
    assert torch.allclose(model.embed([paths[0], images[1], arrays[2]]), expected[:3], atol=1e-5)
    for one in (paths[0], images[0], arrays[0]):
        assert torch.allclose(model.embed(one), expected[:1], atol=1e-5)


def test_network_maps_normalised_images_to_unit_features(model: ReID, folder: Path) -> None:
    paths = sorted(folder.glob("*"))[:3]
    pixels = decoded(paths, model.image_size, model.interpolation)
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.mean, model.std))
    assert not model.network.training and isinstance(model.network, nn.Module)
    features = model.network(((pixels / 255 - mean) / std).to(model.device))
    assert torch.allclose(features.cpu(), model.embed(paths), atol=1e-5)


def test_flip_averages_the_mirror_image(folder: Path) -> None:
    network = tiny_network(1).eval()
    network.fusion.register_forward_pre_hook(lambda module, given: (given[0] * torch.arange(12.0),))
    model = ReID(Trained("tiny", network, {"backbone": {}, "fusion": {}}, (24, 12), "bilinear"))
    images = sorted(folder.glob("*"))[:4]
    pixels = decoded(images, (24, 12), "bilinear")
    mirrored = pixels[..., list(range(11, -1, -1))]
    with torch.no_grad():
        raw = [network((x / 255 - 0.5) / 0.5)["embed"] for x in (pixels, mirrored)]
    expected = torch.nn.functional.normalize((raw[0] + raw[1]) / 2, dim=1)
    assert torch.allclose(model.embed(images, flip=True), expected, atol=1e-5)
    assert not torch.allclose(model.embed(images), expected, atol=1e-3)


def test_stream_yields_names_and_the_same_embeddings(model: ReID, folder: Path) -> None:
    parts = list(model.stream(folder, batch_size=5))
    names = [name for names, _ in parts for name in names]
    assert [len(names) for names, _ in parts][:-1] == [5] * (len(names) // 5)
    assert names == [str(path) for path in sorted(folder.glob("*"))]
    assert torch.allclose(torch.cat([rows for _, rows in parts]), model.embed(folder), atol=1e-5)


def test_larger_images_come_in_smaller_batches() -> None:
    sizes = []

    def batches(self: object, size: int) -> Any:
        sizes.append(size)
        return iter(())

    with mock.patch("reidx.inference.pictures.Pictures.batches", batches):
        for size in ((256, 128), (128, 64), (512, 256), (4096, 2048)):
            model = ReID(Trained("tiny", tiny_network(), {"backbone": {}, "fusion": {}}, size, "bilinear"), device="cpu")
            list(model.stream([np.zeros((8, 4, 3), np.uint8)]))
    assert sizes == [64, 64, 16, 1]


def test_batch_too_large_for_memory_is_divided(model: ReID, folder: Path) -> None:
    whole, sizes = model.embed(folder), []
    raw = type(model._embedder).raw

    def limited(self: Any, images: Tensor, columns: Any) -> Tensor:
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return raw(self, images, columns)

    with mock.patch.object(type(model._embedder), "raw", limited):
        divided = model.embed(folder)
        with pytest.raises(RuntimeError), mock.patch.object(type(model._embedder), "raw", side_effect=RuntimeError("a bug")):
            model.embed(folder)
    assert max(sizes) > 4 and torch.allclose(divided, whole, atol=1e-5)


def test_fusion_gets_the_map_of_its_teacher(folder: Path) -> None:
    torch.manual_seed(0)
    network, teacher = (Network(TinyBackbone(), TeachingHead()).eval() for _ in range(2))
    model = ReID(Trained("taught", network, {"backbone": {}, "fusion": {}}, (24, 12), "bilinear", teacher=teacher))
    images = (decoded(sorted(folder.glob("*"))[:3], (24, 12), "bilinear") / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = network(images, teacher.encode(images)["map"])["embed"]
    assert torch.allclose(model.embed(sorted(folder.glob("*"))[:3]), unit(expected), atol=1e-5)


class CameraHead(nn.Module):
    """``embed`` (B,4), the mean of the map, shifted by the number of the camera."""

    def __init__(self) -> None:
        super().__init__()
        self.dims = {"embed": 4}

    def forward(self, maps: Tensor, cameras: Tensor) -> Features:
        return Features({"embed": maps.mean((2, 3)) + cameras[:, None].float()})


def test_network_asks_for_cameras(folder: Path) -> None:
    network = Network(TinyBackbone(), CameraHead()).eval()
    model = ReID(Trained("cameras", network, {"backbone": {}, "fusion": {}}, (24, 12), "bilinear"))
    paths = sorted(folder.glob("*"))[:3]
    with pytest.raises(DataError, match="needs the camera of each image: give `cameras`"):
        model.embed(paths)
    with pytest.raises(DataError, match="cameras: give 3 whole numbers"):
        model.embed(paths, cameras=[1, 2])
    alike, other = model.embed(paths, cameras=[0, 0, 0]), model.embed(paths, cameras=[0, 0, 5], batch_size=2)
    assert torch.allclose(alike[:2], other[:2], atol=1e-6) and not torch.allclose(alike[2], other[2], atol=1e-3)


def test_search_orders_by_cosine(model: ReID, folder: Path) -> None:
    gallery = model.embed(folder)
    matches = model.search(folder, gallery, k=4)
    cosines = gallery.double() @ gallery.double().T
    expected = cosines.argsort(dim=1, descending=True)[:, :4]
    assert matches.indices.dtype == torch.int64 and matches.similarities.dtype == torch.float32
    assert torch.allclose(matches.similarities.double(), cosines.gather(1, matches.indices), atol=1e-5)
    assert torch.allclose(cosines.gather(1, matches.indices), cosines.gather(1, expected), atol=1e-6)
    assert torch.equal(matches.indices[:, 0], torch.arange(len(gallery)))
    with pytest.raises(DataError, match=f"k is {len(gallery) + 1}; .* 1 to the {len(gallery)} images"):
        model.search(gallery, gallery, k=len(gallery) + 1)
    with pytest.raises(DataError, match="gallery is empty"):
        model.search(gallery, gallery[:0], k=1)
    with pytest.raises(DataError, match="have 3 numbers each"):
        model.search(gallery[:, :3], gallery, k=1)


def test_digest_depends_on_all_that_decides_an_embedding(finished: Path, model: ReID) -> None:
    assert ReID.load(finished).digest == model.digest
    assert ReID.load(finished / "2-adapt" / "epoch_2.pth").digest == model.digest
    other = [ReID.load(finished, checkpoint="2-adapt/epoch_1.pth"), ReID.load(finished, precision="bf16")]
    settings = (IMAGE_SIZE, "bilinear"), ((96, 48), "bicubic")
    other += [ReID(Trained("x", model.trained.network, model.trained.model, *setting)) for setting in settings]
    assert len({model.digest, *(network.digest for network in other)}) == 1 + len(other)


def test_run_loads_without_its_initial_weights(finished: Path, tmp_path: Path, model: ReID) -> None:
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    text = (moved / "config.yaml").read_text(encoding="utf-8")
    (moved / "config.yaml").write_text(text.replace("weights: null", "weights: gone.pth"), encoding="utf-8")
    assert ReID.load(moved).digest == model.digest and "gone.pth" in (moved / "config.yaml").read_text(encoding="utf-8")


def test_file_of_weights_needs_its_model(tmp_path: Path, folder: Path) -> None:
    backbone = reidx.build("backbone", {"type": "Timm", "name": "test_resnet"})
    torch.save(backbone.model.state_dict(), tmp_path / "weights.pth")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth is .* `model` of a config"):
        ReID.load(tmp_path / "other.pth")
    spec = {"type": "Timm", "name": "test_resnet"}
    model = ReID.load(tmp_path / "weights.pth", model={"backbone": spec, "fusion": {"type": "GlobalPool", "pool": "avg"}})
    assert (model.name, model.image_size) == ("weights", (256, 128))
    pixels = decoded(sorted(folder.glob("*"))[:2], (256, 128), "bicubic")
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        expected = backbone.eval()((pixels / 255 - mean) / std).mean((2, 3))
    assert torch.allclose(model.embed(sorted(folder.glob("*"))[:2]), unit(expected), atol=1e-4)


def test_network_of_a_file_is_recognised(tmp_path: Path) -> None:
    osnet = pytest.importorskip("reidx_osnet.model", reason="pip install reidx-osnet")
    backbone = osnet.OSNet(width=0.25).eval()
    torch.save({"state_dict": backbone.state_dict()}, tmp_path / "published.pth")
    model = ReID.load(tmp_path / "published.pth", device="cpu")
    assert model.trained.model["backbone"]["type"] == "osnet.OSNet" and model.dim == 128
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.allclose(model.network(images), unit(backbone(images).mean((2, 3))), atol=1e-5)
    (tmp_path / "published.pth").rename(tmp_path / "moved.pth")
    assert ReID.load(tmp_path / "moved.pth").digest == model.digest


def test_bad_sources_are_explained(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no .*nowhere\. Give the folder of a run"):
        ReID.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is no folder of a run"):
        ReID.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint epoch_9\.pth; there are: 1-warm/epoch_1\.pth, 2-"):
        ReID.load(finished, checkpoint="epoch_9.pth")
    unfinished = Path(shutil.copytree(finished, tmp_path / "unfinished"))
    (unfinished / "2-adapt/epoch_2.pth").unlink()
    with pytest.raises(reidx.ReidxError, match="is not finished"):
        ReID.load(unfinished)
    damaged = unfinished / "2-adapt/epoch_1.pth"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth"):
        ReID.load(unfinished, checkpoint="2-adapt/epoch_1.pth")
    with pytest.raises(ConfigError, match="bakbone"):
        ReID.load(damaged, model={"bakbone": "Timm"})
    for arguments, message in (({"precision": "fp8"}, "precision"), ({"device": "abacus"}, "device 'abacus' is unknown")):
        with pytest.raises(ConfigError, match=message):
            ReID.load(finished, **arguments)


def test_bad_images_are_named(model: ReID, folder: Path, tmp_path: Path) -> None:
    good = decode(str(min(folder.glob("*"))))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(CorruptImage, match=r"broken\.png cannot be read as an image"):
        model.embed(tmp_path)
    with pytest.raises(CorruptImage, match=r"gone\.png"):
        model.embed([tmp_path / "gone.png"])
    with pytest.raises(CorruptImage, match="image 1 cannot be read"):
        model.embed([good, Image.new("F", (4, 8))])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no images"):
        model.embed(tmp_path / "empty")
    with pytest.raises(DataError, match="the list is empty"):
        model.embed([])
    grey = np.zeros((8, 4), np.uint8)
    for wrong, message in (
        ([good, grey], r"image 1 is an array uint8 of shape \(8, 4\)"),
        (np.zeros((2, 8, 4, 3)), "image 0 is an array float64"),
        (grey, r"not \(8, 4\)"),
        ([good, 7], "image 1 is of type int"),
        (torch.zeros(2, 3, 8, 4), r"shape \(2, 3, 8, 4\)"),
        (torch.full((2, 3, *IMAGE_SIZE), float("nan")), "image 0 of the tensor has values outside"),
        (torch.zeros(2, 3, *IMAGE_SIZE, dtype=torch.uint8), "is uint8 of shape"),
    ):
        with pytest.raises(DataError, match=message):
            model.embed(wrong)  # type: ignore[arg-type]
    for size in (0, 1.5, True):
        with pytest.raises(ConfigError, match="batch_size"):
            model.embed(folder, batch_size=size)  # type: ignore[arg-type]


def test_pillow_images_are_converted_as_files_are(model: ReID, folder: Path, tmp_path: Path) -> None:
    image = decode(str(min(folder.glob("*"))))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.quantize(16).save(tmp_path / "palette.png")
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    paths = sorted(tmp_path.glob("*.png"))
    opened = [Image.open(path) for path in paths]
    before = [(image.mode, image.size) for image in opened]
    assert torch.equal(model.embed(opened), model.embed(paths))
    assert [(image.mode, image.size) for image in opened] == before


def test_network_without_finite_features_is_named(folder: Path) -> None:
    network = tiny_network().eval()
    torch.nn.init.constant_(network.fusion.scale, float("nan"))  # type: ignore[arg-type]
    model = ReID(Trained("diverged", network, {"backbone": {}, "fusion": {}}, (24, 12), "bilinear"))
    with pytest.raises(DataError, match=r"\.jpg: its feature is zero, infinite or NaN\. The network diverged"):
        model.embed(folder)
