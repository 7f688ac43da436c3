"""The recipes for a folder without identities and for supervised training train on rendered people."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.inference import ReID
from reidx.testing.tiny import load_experiment

synthetic = pytest.importorskip("reidx_synthetic", reason="pip install reidx-synthetic")

SMALL = {
    "image_size": [64, 32],
    "model": {"backbone": {"type": "Timm", "name": "test_resnet"}, "bn_group": 8},
    "sampler": {"type": "PK", "identities": 4, "instances": 2},
}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the spec of a rendered domain of a few people, rendered once."""
    root = tmp_path_factory.mktemp("rendered")
    spec = {"type": "synthetic.People", "root": str(root), "domain": "target", "identities": [8, 4]}
    spec |= {"cameras": 2, "images_per_camera": 2, "size": [64, 32]}
    reidx.build("dataset", spec)
    return spec


def small(recipe: str, domain: dict[str, Any], fusion: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe for a few small images, two steps long."""
    return {
        "_base_": recipe,
        "precision": "fp32",
        "log": [],
        "data": {"image_size": SMALL["image_size"], "domains": {"target": domain}},
        "model": {**SMALL["model"], "fusion": fusion},
        "streams": {"target": {"sampler": SMALL["sampler"], "transform": {"type": "ReidAugment", "pad": 2}}},
        "epochs": 1,
        "iters": 2,
    }


def test_folder_without_identities_trains(people: dict[str, Any], tmp_path: Path) -> None:
    rendered = reidx.build("dataset", people)
    (tmp_path / "images").mkdir()
    for number, path in enumerate(rendered.train.paths):
        os.link(path, tmp_path / "images" / f"{number:04d}{Path(path).suffix}")
    domain = {"type": "ImageFolder", "root": str(tmp_path / "images")}
    recipe = small("reidx::your_images.yaml", domain, {"type": "GlobalPool"})
    recipe["labels"] = {"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.7, "min_samples": 2}}
    result = reidx.run(load_experiment(tmp_path, recipe), tmp_path / "run", progress="quiet")
    assert math.isfinite(result.stages[0].last["loss"]) and not result.metrics
    model = ReID.load(tmp_path / "run")
    assert model.embed(tmp_path / "images").shape == (len(rendered.train.paths), model.dim)


def test_supervised_recipe_trains_on_identities(people: dict[str, Any], tmp_path: Path) -> None:
    recipe = small("reidx::supervised.yaml", people, {"type": "GlobalPool", "pool": "avg", "normalize": False})
    recipe["model"]["backbone"] = {**recipe["model"]["backbone"], "pretrained": False}
    result = reidx.run(load_experiment(tmp_path, recipe), tmp_path / "run", progress="quiet")
    assert 0 < result.metrics["mAP"] <= 1
    assert {"CrossEntropy", "Triplet"} <= result.stages[0].last.keys()
