"""Fixtures: the plugin's configs between two tiny domains, with a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reidx.config.config import Config
from reidx.testing.tiny import load_experiment, tiny_recipe

Tiny = Callable[..., Config]

_FEW = {"sampler": {"type": "PK", "identities": 4, "instances": 2}}
_PRETRAIN = {"epochs": 1, "iters": 2, "streams": {"target": {"sampler": {"type": "Shuffle", "batch": 8}}}}
_BACKBONE = {"type": "uda_baseline.NonLocalResNet", "name": "test_resnet", "blocks": [0, 1, 1, 0]}


@pytest.fixture
def tiny(tmp_path: Path, domains_root: Path) -> Tiny:
    """Return ``tiny(address, *overrides)``: a config with 8 images per domain and step, 3 epochs of 2 steps."""

    def load(address: str, *overrides: str) -> Config:
        labels: dict[str, Any] = {"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.7, "min_samples": 2}}
        pretrained = {} if "joint" in address else {"stages": {"pretrain": _PRETRAIN}}
        experiment = tiny_recipe(
            address,
            domains_root,
            ("source", "target"),
            model={"backbone": _BACKBONE, "bn_group": 8},
            epochs=3,
            iters=2,
            streams={"source": _FEW, "target": _FEW},
            labels={**labels, "relabel_every": 2} if pretrained else labels,
            **pretrained,
        )
        return load_experiment(tmp_path, experiment, overrides)

    return load
