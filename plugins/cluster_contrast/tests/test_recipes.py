"""The shipped recipes match their snapshots and keep the values of the released code."""

from __future__ import annotations

import pytest

import reidx
from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

DATA_SETS = {  # type, steps per epoch, image size
    "market1501": ("Market1501", 200, [256, 128]),
    "duke": ("DukeMTMC", 200, [256, 128]),
    "msmt17": ("MSMT17", 400, [256, 128]),
    "personx": ("PersonX", 200, [256, 128]),
    "veri776": ("VeRi776", 400, [224, 224]),
}
STATED = [
    Stated(
        "the released code",
        [f"cluster_contrast::{name}.yaml" for name in DATA_SETS],
        {
            "data.interpolation": "bicubic",
            "stages.adapt": {
                "epochs": 50,
                "model.backbone": {"name": "resnet50.tv_in1k", "pretrained": True},
                "streams.target.sampler": {"identities": 16, "instances": 16},  # 256 images
                "labels.labellings.main.clusterer": {"type": "DBSCAN", "eps": 0.6, "min_samples": 4},
                "memories.centroids.memory.momentum": 0.1,
                "optimizer": {"lr": 3.5e-4},
                "optimization": {"lr_batch": 256},
                "schedule.0.step_size": 20,
                "evaluate.domain": "target",
            },
        },
    ),
    *(
        Stated(
            "the released code's commands",
            [f"cluster_contrast::{name}.yaml"],
            {"data": {"domains.target.type": kind, "image_size": size}, "stages.adapt.iters": iters},
        )
        for name, (kind, iters, size) in DATA_SETS.items()
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("cluster_contrast"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()


def test_infomap_variant_is_two_parts() -> None:
    other = ["labels.distance={type: Cosine, k: 15}", "labels.clusterer={type: InfoMap}"]
    level = reidx.load_config("cluster_contrast::msmt17.yaml", other).experiment.stages[0].labels["main"]
    assert level.distance is not None and (level.distance["type"], level.distance["k"]) == ("Cosine", 15)
    assert (level.clusterer["min_similarity"], level.clusterer["min_size"]) == (0.5, 5)
