"""Every method's recipe trains on any backbone: one line of the config selects another family of networks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import reidx
from reidx.testing.tiny import shrunk, tiny_domain, write_experiment

METHODS = ("cluster_contrast", "ca_jaccard", "spcl", "pplr", "o2cap", "lp", "global_patch")


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_on(method: str, backbone: str, domains_root: Path, tmp_path: Path) -> None:
    brought = {
        "_base_": [f"{method}::usl.yaml"],
        "name": "tiny",
        "data": {"domains": {"target": tiny_domain(domains_root)}},
        "model": {"backbone": {"type": "Timm", "name": backbone}},
    }
    recipe = reidx.load_config(write_experiment(tmp_path / "recipe.yaml", brought))
    path = write_experiment(tmp_path / "experiment.yaml", shrunk(recipe.data, domains_root, backbone))
    result = reidx.run(reidx.load_config(path), tmp_path / "run", progress="quiet")
    for stage in result.stages:
        assert len(stage.history) == 1
        assert math.isfinite(stage.last["loss"])
        assert stage.last["loss"] > 0
    assert 0 < result.metrics["mAP"] <= 1
