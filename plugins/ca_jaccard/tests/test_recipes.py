"""The shipped recipes match their snapshots and keep the values of the released code's commands."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

DATA_SETS = {  # type, eps, steps per epoch, image size
    "market1501": ("Market1501", 0.4, 200, [256, 128]),
    "msmt17": ("MSMT17", 0.6, 400, [256, 128]),
    "veri776": ("VeRi776", 0.6, 400, [224, 224]),
}
STATED = [
    Stated(
        "the released code's defaults",
        [f"ca_jaccard::{name}.yaml" for name in DATA_SETS],
        {
            "data.interpolation": "bicubic",
            "stages.adapt": {
                "epochs": 50,
                "model": {"backbone": {"name": "resnet50.tv_in1k", "pretrained": True}, "fusion.pool": "avg"},
                "streams.target.sampler": {"identities": 16, "instances": 16},  # 256 images
                "labels.labellings.main": {
                    "distance": {"type": "ca_jaccard.CAJaccard", "k1_intra": 5, "k1_inter": 20, "k2_first": 3},
                    "clusterer": {"type": "DBSCAN", "min_samples": 4},
                },
                "memories.centroids.memory.momentum": 0.1,
                "objective.0.loss.temperature": 0.05,
                "optimizer": {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4},
                "schedule.0": {"step_size": 20, "gamma": 0.1},
            },
        },
    ),
    *(
        Stated(
            "the released code's commands",
            [f"ca_jaccard::{name}.yaml"],
            {
                "data": {"domains.target.type": kind, "image_size": size},
                "stages.adapt": {
                    "iters": iters,
                    "labels.labellings.main": {"clusterer.eps": eps, "distance": {"k2_intra": 2, "k2_inter": 4}},
                },
            },
        )
        for name, (kind, eps, iters, size) in DATA_SETS.items()
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("ca_jaccard"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
