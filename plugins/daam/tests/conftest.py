"""The configs of the plugin on two tiny domains, rendered once, with a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import reidx
from reidx.config.config import Config
from reidx.testing.tiny import IMAGE_SIZE, tiny_domain, write_experiment

Tiny = Callable[..., Config]

TINY: dict[str, Any] = {
    "name": "tiny",
    "precision": "fp32",
    "data": {"image_size": list(IMAGE_SIZE)},
    "model": {"backbone": {"type": "Timm", "name": "test_resnet"}, "bn_group": 8},
    "iters": 3,
    "streams": {
        "source": {"sampler": {"identities": 4, "instances": 2}, "transform": {"pad": 2}},
        "target": {"sampler": {"batch": 8}, "transform": {"pad": 2}},
    },
    "stages": {"source_warmup": {"epochs": 2}, "adapt": {"epochs": 3}},
    "log": [],
}
CLUSTERED: dict[str, Any] = {
    "streams": {"target": {"sampler": {"identities": 4, "instances": 2}}},
    "labels": {"distance": {"k1": 8, "k2": 2}, "clusterer": {"share": 0.03, "min_samples": 2}},
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """``tiny(address, *overrides)``: a config of the plugin made small: 8 images of each domain a step, 2 and 3 epochs of 3."""
    folder = tmp_path_factory.mktemp("tiny")
    domains = {name: tiny_domain(folder / "domains", name) for name in ("source", "target")}

    def load(address: str, *overrides: str) -> Config:
        experiment = {"_base_": address, **TINY, "data": {**TINY["data"], "domains": domains}}
        if address not in ("daam::base.yaml", "daam::exemplar.yaml"):
            experiment["stages"] = {**TINY["stages"], "adapt": {"epochs": 3, **CLUSTERED}}
        return reidx.load_config(write_experiment(folder / "experiment.yaml", experiment), list(overrides))

    return load
