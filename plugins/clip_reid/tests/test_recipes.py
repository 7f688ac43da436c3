"""The shipped recipes match their snapshots and keep the stated values."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

STATED = [
    Stated(
        "defaults, and schedule in the logs, of the unofficial unsupervised implementation",
        ["clip_reid::market1501.yaml", "clip_reid::msmt17.yaml"],
        {
            "data": {"image_size": [256, 128], "interpolation": "bicubic"},
            "stages.adapt": {
                "epochs": 60,
                "iters": 200,
                "model.backbone": {"patch": 16, "width": 768, "depth": 12, "heads": 12, "projection": 512},
                "streams.target.sampler": {"identities": 16, "instances": 16},  # 256 images
                "labels.labellings.main": {"distance": {"k1": 30, "k2": 6}},
                "memories.centroids.memory.momentum": 0.1,
                "objective.0.loss.temperature": 0.05,
                "optimizer": {"type": "SGD", "lr": 3.5e-4, "momentum": 0.9, "weight_decay": 5e-4},
                "schedule.1": {"milestones": [20, 40], "gamma": 0.1},
            },
        },
    ),
    Stated(
        "its command for Market-1501",
        ["clip_reid::market1501.yaml"],
        {"stages.adapt": {"labels.labellings.main.clusterer.eps": 0.4, "memories.centroids.memory.update": "hard"}},
    ),
    Stated(
        "its command for MSMT17",
        ["clip_reid::msmt17.yaml"],
        {"stages.adapt": {"labels.labellings.main.clusterer.eps": 0.7, "memories.centroids.memory.update": "momentum"}},
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("clip_reid"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
