"""The shipped recipes match their snapshots and keep the values of the released code."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

PUBLISHED = ["usl_vi::sysu_mm01.yaml", "usl_vi::regdb.yaml"]
STATED = [
    Stated(
        "defaults and commands of the released code",
        PUBLISHED,
        {
            "data.image_size": [288, 144],
            "data.interpolation": "bicubic",
            "stages.*": {
                "model.backbone.of": {"type": "uda_baseline.NonLocalResNet", "blocks": [0, 2, 3, 0], "inner": 1},
                "streams.visible.sampler": {"type": "PK", "identities": 8, "instances": 16},
                "streams.infrared.sampler": {"type": "PK", "identities": 16, "instances": 16},
                "streams.visible.views.exchanged": {"exchange": 1.0, "grey": 0.0},
                "streams.infrared.transform": {"exchange": 0.75, "grey": 0.125},
                "labels.labellings.*": {"distance": {"k1": 30, "k2": 6}, "clusterer": {"min_samples": 4}},
                "memories.*.memory.momentum": 0.2,
                "optimizer": {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4},
                "evaluate": {"metric": "cosine", "flip": True},
            },
            "stages.baseline.objective.*.loss.temperature": 0.05,
            "stages.matched.objective.2": {"loss.temperature": 0.05, "memory": "infrared", "weight": 0.25},
            "stages.matched.objective.3": {"loss.temperature": 0.05, "memory": "visible", "weight": 0.25},
        },
    ),
    Stated(
        "train_sysu.py",
        PUBLISHED[:1],
        {
            "stages.*": {
                "epochs": 50,
                "iters": 200,
                "labels.labellings.*.clusterer.eps": 0.6,
                "schedule": [{"type": "StepLR", "step_size": 20, "gamma": 0.1}],
            },
            "stages.baseline.memories.*.memory.update": "momentum",
            "stages.matched.memories.*.memory.update": "hard",
        },
    ),
    Stated(
        "train_regdb.py",
        PUBLISHED[1:],
        {
            "stages.*": {
                "epochs": 30,
                "iters": 100,
                "labels.labellings.*.clusterer.eps": 0.3,
                "schedule": [{"type": "StepLR", "step_size": 10, "gamma": 0.1}],
                "memories.*.memory.update": "momentum",
            },
        },
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("usl_vi"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
