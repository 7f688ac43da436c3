"""The configs of the plugin on tiny domains, with a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reidx.config.config import Config
from reidx.testing.tiny import load_experiment, tiny_recipe

Tiny = Callable[..., Config]

LEVELS = {"direct": "", "baseline": "g"}
"""Levels of the configs that have fewer than three."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, domains_root: Path) -> Tiny:
    """``tiny(names, *overrides)``: published configs, merged in this order, made small: batches of 8, 2 epochs of 3 steps."""
    folder = tmp_path_factory.mktemp("tiny")
    few = {"sampler": {"identities": 4, "instances": 2}, "transform": {"pad": 2}}
    pretrain = {"epochs": 2, "iters": 3, "schedule": [],
                "streams": {"source": few, "target": {"sampler": {"batch": 8}, "transform": {"pad": 2}}}}  # fmt: skip

    def load(names: str, *overrides: str) -> Config:
        first, *variants = names.split()
        levels = "g" if "shared" in variants else LEVELS.get(first, "gul")
        stages: dict[str, Any] = {} if first == "source_free" else {"pretrain": pretrain}
        if levels:
            stages["adapt"] = {"streams": dict.fromkeys(levels, few)}
        experiment = tiny_recipe(
            [f"lf2::{first}.yaml", *(f"lf2::variants/{name}.yaml" for name in variants)],
            domains_root,
            ("source", "target"),
            model={"bn_group": 8},
            epochs=2,
            iters=3,
            labels={"clusterer": {"n_clusters": 12}},
            stages=stages,
        )
        return load_experiment(folder, experiment, overrides)

    return load
