"""Extraction against a network called on one image at a time."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reidx.contracts import Features
from reidx.data.domains import Domains
from reidx.data.images import ImageStore
from reidx.data.transforms import ReidTest
from reidx.engine import extract as extract_module
from reidx.engine.extract import extract
from reidx.engine.objective import Objective
from reidx.engine.relabel import Extractor
from reidx.engine.step import StageModel
from reidx.models.network import Network
from reidx.reporting.reporter import Reporter
from reidx.testing.networks import tiny_network
from reidx.testing.tiny import IMAGE_SIZE, tiny_domain

CPU = torch.device("cpu")
TRANSFORM = ReidTest(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    random = np.random.default_rng(0)
    for i in range(11):
        Image.fromarray(random.integers(0, 256, (8, 4, 3), np.uint8)).save(tmp_path / f"{i}.png")
    return ImageStore([str(tmp_path / f"{i}.png") for i in range(11)], (8, 4))


@pytest.fixture
def network() -> Network:
    """Return a network with changed running statistics, whose features change when the image is mirrored."""
    network = tiny_network(3)
    for _ in range(5):
        network(torch.randn(8, 3, 8, 4) * 2 + 1)
    ramp = torch.arange(4.0)
    network.fusion.register_forward_pre_hook(lambda module, given: (given[0] * ramp,))
    return network.eval()


def one_by_one(network: Network, store: ImageStore, name: str, flip: bool) -> Tensor:
    rows = []
    with torch.no_grad():
        for i in range(len(store)):
            image = TRANSFORM(store[i])[None]
            row = network(image)[name][0]
            rows.append((row + network(torch.flip(image, [3]))[name][0]) / 2 if flip else row)
    return torch.stack(rows)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_features_follow_the_order_of_images(
    store: ImageStore, network: Network, flip: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extract_module.BATCH, "cpu", 4)  # three batches, the last with three images
    extracted = extract(
        network, store, TRANSFORM.batch, ["embed", "pooled"], device=CPU, flip=flip, workers=workers
    )
    assert set(extracted) == {"embed", "pooled"}
    for name, features in extracted.items():
        assert features.dtype == torch.float32 and not features.requires_grad
        assert torch.allclose(features, one_by_one(network, store, name, flip), atol=1e-5)
    assert not torch.allclose(extracted["embed"][0], extracted["embed"][1], atol=1e-3)


def test_the_mirror_image_does_change_the_features(store: ImageStore, network: Network) -> None:
    plain, both = (
        extract(network, store, TRANSFORM.batch, ["embed"], device=CPU, flip=flip)["embed"] for flip in (False, True)
    )
    assert not torch.allclose(plain, both, atol=1e-3)


def test_features_of_any_shape_come_as_float32(store: ImageStore) -> None:
    def network(images: Tensor) -> Features:
        return Features({"embed": images.mean((2, 3)).bfloat16(), "parts": images.mean(3).transpose(1, 2)})

    extracted = extract(network, store, TRANSFORM.batch, ["embed", "parts"], device=CPU)
    assert extracted["embed"].shape == (11, 3) and extracted["parts"].shape == (11, 8, 3)
    assert extracted["embed"].dtype == extracted["parts"].dtype == torch.float32


def test_bf16_features_are_close_and_float32(store: ImageStore, network: Network) -> None:
    full, low = (
        extract(network, store, TRANSFORM.batch, ["embed"], device=CPU, precision=p)["embed"] for p in ("fp32", "bf16")
    )
    assert low.dtype == torch.float32
    assert not torch.equal(full, low) and torch.allclose(full, low, rtol=0.05, atol=0.05)


# ---- extraction with a stage's networks


def extractor(domains_root: Path, kept: str = "fp32") -> Extractor:
    domains = Domains(
        {
            "domains": {"target": tiny_domain(domains_root)},
            "image_size": list(IMAGE_SIZE),
            "interpolation": "bilinear",
            "workers": 0,
            "cache_gb": 1.0,
        }
    )
    ema = {"type": "EMA", "of": "student", "momentum": 0.9, "warmup": True, "batch_norm": "own", "statistics": "running"}
    networks = {"student": tiny_network(0), "mean": tiny_network(1)}
    model = StageModel(networks, {"mean": ema}, {}, {}, Objective([]), {}, {})
    for network in networks.values():
        network(torch.randn(8, 3, 8, 4) * 2 + 1)
    transforms = dict.fromkeys(networks, TRANSFORM.batch)
    return Extractor(model, domains, transforms, "fp32", kept, Reporter("quiet"))


@pytest.mark.parametrize("name", ["student", "mean"])
def test_extraction_leaves_the_network_unchanged(domains_root: Path, name: str) -> None:
    extractor_ = extractor(domains_root)
    model = extractor_.model.train()
    state = copy.deepcopy(model.state_dict())
    features = extractor_.features("target", "query", name, {"embed"}, False, "test")["embed"]
    assert model.training and all(network.training for network in model.networks.values())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    reference = copy.deepcopy(model.networks[name]).eval()
    expected = one_by_one(reference, extractor_.domains.images("target", "query"), "embed", False)
    assert torch.allclose(features, expected, atol=1e-4)
    model.eval()
    extractor_.features("target", "query", name, {"embed"}, False, "test")
    assert not model.training


def test_only_training_features_are_halved(domains_root: Path) -> None:
    halved, full = extractor(domains_root, "fp16"), extractor(domains_root)
    features, exact = (e.features("target", "train", "student", {"embed"}, False, "test")["embed"] for e in (halved, full))
    assert features.dtype == torch.float16 and exact.dtype == torch.float32
    assert torch.equal(features, exact.half())
    assert halved.features("target", "query", "student", {"embed"}, False, "test")["embed"].dtype == torch.float32


def test_training_mode_is_restored_after_an_error(domains_root: Path) -> None:
    extractor_ = extractor(domains_root)
    extractor_.model.train()
    with pytest.raises(KeyError):
        extractor_.features("target", "query", "student", {"missing"}, False, "test")
    assert extractor_.model.training


def test_features_follow_the_current_weights(domains_root: Path) -> None:
    extractor_ = extractor(domains_root)
    before = extractor_.features("target", "query", "student", {"embed"}, False, "test")["embed"]
    with torch.no_grad():
        extractor_.model.networks["student"].fusion.scale.mul_(2.0)
    after = extractor_.features("target", "query", "student", {"embed"}, False, "test")["embed"]
    assert torch.allclose(after, 2.0 * before, atol=1e-5)


def test_fusion_gets_the_map_of_its_teacher(domains_root: Path) -> None:
    extractor_ = extractor(domains_root)
    model = extractor_.model
    model.networks["student"] = tiny_network(0, teaching=True)
    features = extractor_.features("target", "query", "student", {"embed"}, False, "test")["embed"]
    student, mean = model.networks["student"].eval(), model.networks["mean"].eval()
    store = extractor_.domains.images("target", "query")
    with torch.no_grad():
        images = TRANSFORM.batch(store.batch(range(len(store))))
        expected = student(images, mean.encode(images)["map"])["embed"]
    assert torch.allclose(features, expected, atol=1e-4)
