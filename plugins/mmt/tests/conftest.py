"""Fixtures: the plugin's configs between two tiny domains, with a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reidx.config.config import Config
from reidx.testing.tiny import load_experiment, tiny_recipe

Tiny = Callable[..., Config]

_FEW = {"sampler": {"type": "PK", "identities": 4, "instances": 2}}
_PRETRAIN = {
    "epochs": 1,
    "iters": 2,
    "streams": {"source": _FEW, "target": {"sampler": {"type": "Shuffle", "batch": 8}}},
}


@pytest.fixture
def tiny(tmp_path: Path, domains_root: Path) -> Tiny:
    """Return ``tiny(address, *overrides)``: a config with 8 images a step, 1 epoch of pre-training, then 2 of 2 steps."""

    def load(address: str, *overrides: str) -> Config:
        whole = "source_free" not in address
        clusterer = {"min_samples": 2} if "dbscan" in address else {"n_clusters": 12}
        experiment = tiny_recipe(
            address,
            domains_root,
            ("source", "target") if whole else ("target",),
            model={"bn_group": 8},
            epochs=2,
            iters=2,
            streams={"target": _FEW},
            labels={"clusterer": clusterer},
            **({"stages": {"pretrain": _PRETRAIN, "pretrain2": _PRETRAIN}} if whole else {}),
        )
        return load_experiment(tmp_path, experiment, overrides)

    return load
