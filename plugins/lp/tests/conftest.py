"""The configs of the plugin on a tiny domain, with a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reidx.config.config import Config
from reidx.testing.tiny import load_experiment, tiny_recipe

Tiny = Callable[..., Config]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, domains_root: Path) -> Tiny:
    """``tiny(address, *overrides)``: a published config made small: 8 images per step, few neighbours, 2 epochs of 3 steps."""
    folder = tmp_path_factory.mktemp("tiny")
    sampler = {"type": "PK", "identities": 4, "instances": 2}

    def load(address: str, *overrides: str) -> Config:
        experiment = tiny_recipe(
            address,
            domains_root,
            epochs=2,
            iters=3,
            streams={"target": {"sampler": sampler, "transform": {"type": "ReidAugment", "pad": 2}}},
            labels={"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.7, "min_samples": 2}},
        )
        return load_experiment(folder, experiment, overrides)

    return load
