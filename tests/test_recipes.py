"""Every method's recipe trains on any backbone: one line of the config is another family of networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.testing.tiny import tiny_domain, write_experiment

METHODS = ("cluster_contrast", "spcl", "pplr", "lp", "global_patch")

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"image_size": [96, 48]},
    "model": {"bn_group": 8},
    "epochs": 1,
    "iters": 2,
    "evaluate": {"domain": "target"},
}
CLUSTERS = {
    "streams": {"target": {"sampler": {"type": "PK", "identities": 4, "instances": 2}}},
    "labels": {"distance": {"k1": 8, "k2": 2}, "clusterer": {"type": "DBSCAN", "eps": 0.7, "min_samples": 2}},
}
OWN: dict[str, dict[str, Any]] = {
    "lp": {**CLUSTERS, "stages": {"warmup": {"iters": 2}}},
    "global_patch": {"streams": {"target": {"sampler": {"batch": 4}}}},
}


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_on(method: str, backbone: str, domains_root: Path, tmp_path: Path) -> None:
    experiment = {"_base_": [f"{method}::usl.yaml"], **TINY, **OWN.get(method, CLUSTERS)}
    experiment["data"] = {**TINY["data"], "domains": {"target": tiny_domain(domains_root)}}
    experiment["model"] = {"bn_group": 8, "backbone": {"type": "Timm", "name": "test_resnet"}}
    path = write_experiment(tmp_path / "experiment.yaml", experiment)
    config = reidx.load_config(path, [f"model.backbone={{type: Timm, name: {backbone}}}"])
    result = reidx.run(config, tmp_path / "run", progress="quiet")
    for stage in result.stages:
        assert len(stage.history) == 1 and math.isfinite(stage.last["loss"]) and stage.last["loss"] > 0
    assert 0 < result.metrics["mAP"] <= 1
