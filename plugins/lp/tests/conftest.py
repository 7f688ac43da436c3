"""The configs of the plugin on a tiny domain, rendered once, with a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import reidx
from reidx.config.config import Config
from reidx.testing.tiny import IMAGE_SIZE, tiny_domain, write_experiment

Tiny = Callable[..., Config]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """``tiny(address, *overrides)``: a published config made small: 8 images a step, near neighbours, 2 epochs of 3 steps."""
    folder = tmp_path_factory.mktemp("tiny")
    small: dict[str, Any] = {
        "name": "tiny",
        "precision": "fp32",
        "data": {"image_size": list(IMAGE_SIZE), "domains": {"target": tiny_domain(folder / "domain")}},
        "model": {"backbone": {"type": "Timm", "name": "test_resnet"}},
        "epochs": 2,
        "iters": 3,
        "streams": {
            "target": {
                "sampler": {"type": "PK", "identities": 4, "instances": 2},
                "transform": {"type": "ReidAugment", "pad": 2},
            }
        },
        "labels": {"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.7, "min_samples": 2}},
        "log": [],
    }

    def load(address: str, *overrides: str) -> Config:
        path = write_experiment(folder / "experiment.yaml", {"_base_": address, **small})
        return reidx.load_config(path, overrides)

    return load
