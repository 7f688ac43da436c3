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
_PRETRAIN = {
    "epochs": 1,
    "iters": 2,
    "streams": {"source": _FEW, "target": {"sampler": {"type": "Shuffle", "batch": 8}}},
}


@pytest.fixture(scope="session")
def domains_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which tiny domains are rendered on first use."""
    return tmp_path_factory.mktemp("domains")


@pytest.fixture
def tiny(tmp_path: Path, domains_root: Path) -> Tiny:
    """``tiny(address, *overrides)``: a config made small, 8 images a step, 2 epochs of 2 steps after 1 of pre-training."""

    def load(address: str, *overrides: str) -> Config:
        whole = "source_free" not in address
        names = ("source", "target") if whole else ("target",)
        experiment: dict[str, Any] = {
            "_base_": address,
            "name": "tiny",
            "precision": "fp32",
            "data": {"image_size": list(IMAGE_SIZE), "domains": {n: tiny_domain(domains_root, n) for n in names}},
            "model": {"backbone": {"type": "Timm", "name": "test_resnet"}, "bn_group": 8},
            "epochs": 2,
            "iters": 2,
            "streams": {"target": _FEW},
            "labels": {"clusterer": {"min_samples": 2}} if "dbscan" in address else {"clusterer": {"n_clusters": 12}},
            "log": [],
        }
        if whole:
            experiment["stages"] = {"pretrain": _PRETRAIN, "pretrain2": _PRETRAIN}
        return reidx.load_config(write_experiment(tmp_path / "experiment.yaml", experiment), list(overrides))

    return load
