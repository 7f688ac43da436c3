"""Both recipes as whole experiments: values, refused changes, training, and resuming."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.config.config import Config
from reidx.errors import ConfigError
from reidx.testing.runs import assert_resumes
from reidx.testing.tiny import load_experiment, tiny_recipe

Tiny = Callable[..., Config]


@pytest.fixture
def tiny(tmp_path: Path, domains_root: Path) -> Tiny:
    """Return a function that loads a recipe of this plugin at test size, with ``changes`` merged in per top-level key."""

    def make(recipe: str, epochs: int = 1, iters: int = 1, **changes: Any) -> Config:
        labels = {"distance": None, "clusterer": {"type": "KMeans", "n_clusters": 12}, **changes.pop("labels", {})}
        experiment = tiny_recipe(
            f"pplr::{recipe}.yaml",
            domains_root,
            stages=[{"name": "adapt", "epochs": epochs, "iters": iters}],
            streams={"target": {"sampler": {"identities": 4, "instances": 4}}},
            labels=labels,
            **changes,
        )
        experiment["data"]["image_size"] = [96, 48]
        return load_experiment(tmp_path, experiment)

    return make


# ---- values


@pytest.mark.parametrize("recipe", ["market1501", "msmt17", "veri776"])
def test_camera_recipe_extends_the_plain_one(recipe: str) -> None:
    plain, camera = (reidx.load_config(f"pplr::{name}.yaml").experiment.stages[0] for name in (recipe, f"{recipe}_camera"))
    assert camera.objective[:4] == plain.objective
    assert {name: camera.memories[name] for name in plain.memories} == plain.memories
    assert camera.labels["main"].refiners == plain.labels["main"].refiners


# ---- refused changes


def test_fusion_without_parts_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"pplr\.CrossAgreement needs 'parts'.*GlobalPool does not.*pplr\.Stripes"):
        tiny("usl", model={"fusion": {"type": "GlobalPool"}})


def test_losses_without_agreement_are_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"pplr\.PGLR needs 'agreement'.*pplr\.CrossAgreement"):
        tiny("usl", labels={"refiners": []})


def test_camera_contrast_needs_its_memory(tiny: Tiny) -> None:
    term = {"loss": "pplr.CameraContrast", "feature": "global", "memory": "ids"}
    with pytest.raises(ConfigError, match=r"pplr\.CameraContrast needs 'proxy_cameras'.*pplr\.CameraProxies"):
        tiny("usl", objective=[term])


# ---- training


@pytest.mark.parametrize("recipe", ["usl", "camera"])
def test_parts_change_their_loss_after_epoch_five(tiny: Tiny, tmp_path: Path, recipe: str) -> None:
    # the camera recipe needs clusters with several cameras, which DBSCAN does not find with an untrained network
    found_by: dict[str, Any] = {
        "usl": {"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.7, "min_samples": 2}},
        "camera": {"distance": None, "clusterer": {"type": "KMeans", "n_clusters": 12}},
    }
    result = reidx.run(tiny(recipe, epochs=6, labels=found_by[recipe]), tmp_path / "run", progress="quiet")
    history = result.stages[0].history
    assert [("CrossEntropy" in h, "pplr.AALS" in h) for h in history] == [(True, False)] * 5 + [(False, True)]
    for report in history:
        assert 0.0 < report["agreement"] < 1.0
        values = [report[n] for n in ("pplr.PGLR", "CrossEntropy", "pplr.AALS", "Triplet") if n in report]
        total = sum(values) + 0.5 * sum(report.get(f"pplr.CameraContrast{n}", 0.0) for n in ("", "#2"))
        assert math.isfinite(total)
        assert report["loss"] == pytest.approx(total, rel=1e-4)
    if recipe == "camera":
        assert history[0]["pplr.CameraContrast"] > 0 and history[0]["pplr.CameraContrast#2"] > 0
    assert 0.0 < result.metrics["mAP"] <= 1.0


def test_agreement_survives_an_interruption(tiny: Tiny, tmp_path: Path) -> None:
    # labelled once: the second epoch trains with the labels that the checkpoint keeps
    assert_resumes(tiny("camera", epochs=2, iters=2, labels={"relabel_every": 2}), tmp_path, steps=[4])
