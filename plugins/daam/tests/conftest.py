"""The configs of the plugin on two tiny domains, with a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reidx.config.config import Config
from reidx.testing.tiny import load_experiment, tiny_recipe

Tiny = Callable[..., Config]

STREAMS: dict[str, Any] = {
    "source": {"sampler": {"identities": 4, "instances": 2}, "transform": {"pad": 2}},
    "target": {"sampler": {"batch": 8}, "transform": {"pad": 2}},
}
CLUSTERED: dict[str, Any] = {
    "streams": {"target": {"sampler": {"identities": 4, "instances": 2}}},
    "labels": {"distance": {"k1": 8, "k2": 2}, "clusterer": {"share": 0.03, "min_samples": 2}},
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, domains_root: Path) -> Tiny:
    """``tiny(address, *overrides)``: a config made small: 8 images of each domain per step, 2 and 3 epochs of 3 steps."""
    folder = tmp_path_factory.mktemp("tiny")

    def load(address: str, *overrides: str) -> Config:
        clustered = {} if address in ("daam::base.yaml", "daam::exemplar.yaml") else CLUSTERED
        stages = {"source_warmup": {"epochs": 2}, "adapt": {"epochs": 3, **clustered}}
        both = ("source", "target")
        experiment = tiny_recipe(
            address, domains_root, both, model={"bn_group": 8}, iters=3, streams=STREAMS, stages=stages
        )
        return load_experiment(folder, experiment, overrides)

    return load
