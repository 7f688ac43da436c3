"""The configs of the plugin between two tiny domains, rendered once, with a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.config.config import Config
from reidx.testing.tiny import IMAGE_SIZE, tiny_domain, write_experiment

Tiny = Callable[..., Config]

_FEW = {"sampler": {"type": "PK", "identities": 4, "instances": 2}}


@pytest.fixture(scope="session")
def domains_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which tiny domains are rendered on first use."""
    return tmp_path_factory.mktemp("domains")


@pytest.fixture
def tiny(tmp_path: Path, domains_root: Path) -> Tiny:
    """``tiny(address, *overrides)``: a config made small, 8 images of a domain a step, 3 epochs of 2 steps."""

    def load(address: str, *overrides: str) -> Config:
        experiment: dict[str, Any] = {
            "_base_": address,
            "name": "tiny",
            "precision": "fp32",
            "data": {
                "image_size": list(IMAGE_SIZE),
                "domains": {name: tiny_domain(domains_root, name) for name in ("source", "target")},
            },
            "model": {
                "backbone": {"type": "uda_baseline.NonLocalResNet", "name": "test_resnet", "blocks": [0, 1, 1, 0]},
                "bn_group": 8,
            },
            "epochs": 3,
            "iters": 2,
            "streams": {"source": _FEW, "target": _FEW},
            "labels": {"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.7, "min_samples": 2}},
            "log": [],
        }
        if "joint" not in address:
            experiment["labels"]["relabel_every"] = 2
            experiment["stages"] = {
                "pretrain": {"epochs": 1, "iters": 2, "streams": {"target": {"sampler": {"type": "Shuffle", "batch": 8}}}}
            }
        return reidx.load_config(write_experiment(tmp_path / "experiment.yaml", experiment), list(overrides))

    return load
