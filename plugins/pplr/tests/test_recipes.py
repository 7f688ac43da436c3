"""The shipped recipes match their snapshots and keep the values of the paper."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

DATA_SETS = {  # image size; identities and images per identity in a batch of 64
    "market1501": ([384, 128], (16, 4)),
    "msmt17": ([384, 128], (16, 4)),
    "veri776": ([256, 256], (8, 8)),
}
SETTINGS = {  # eps, weight of the camera losses
    "market1501": (0.5, None),
    "msmt17": (0.5, None),
    "veri776": (0.7, None),
    "market1501_camera": (0.4, 0.5),
    "msmt17_camera": (0.6, 1.0),
    "veri776_camera": (0.7, 0.5),
}
ALWAYS = {"weight": 1.0, "from_epoch": 0, "until_epoch": None}
LOSSES = [
    {**ALWAYS, "loss": {"type": "pplr.PGLR", "beta": 0.5}, "feature": "global"},
    {**ALWAYS, "loss": {"type": "CrossEntropy", "smoothing": 0.1}, "feature": "parts", "until_epoch": 5},
    {**ALWAYS, "loss": {"type": "pplr.AALS"}, "feature": "parts", "from_epoch": 5},
    {**ALWAYS, "loss": {"type": "Triplet", "margin": None, "normalize": False}, "feature": "global"},
]


def camera_losses(weight: float | None) -> list[dict[str, object]]:
    """Return the terms that use cameras; none without a weight."""
    shared = {**ALWAYS, "loss": {"type": "pplr.CameraContrast", "temperature": 0.07, "hard": 50}, "weight": weight}
    return [{**shared, "feature": feature} for feature in ("global", "parts")] if weight else []


STATED = [
    Stated(
        "Cho et al. 2022, implementation details",
        [f"pplr::{name}.yaml" for name in SETTINGS],
        {
            "stages.adapt": {
                "epochs": 50,
                "iters": 400,
                "model": {"bn_group": 16, "backbone": {"name": "resnet50.tv_in1k", "pretrained": True}},
                "streams.target.sampler.singles": "once",
                "labels.labellings.main.clusterer.min_samples": 4,
                "optimizer": {"lr": 3.5e-4, "weight_decay": 5e-4},
                "optimization": {"lr_batch": 64},
                "evaluate.domain": "target",
            },
        },
    ),
    *(
        Stated(
            "the released code's commands",
            [f"pplr::{name}.yaml", f"pplr::{name}_camera.yaml"],
            {
                "data.image_size": size,
                "stages.adapt.streams.target.sampler": {"identities": identities, "instances": instances},
            },
        )
        for name, (size, (identities, instances)) in DATA_SETS.items()
    ),
    *(
        Stated(
            "Cho et al. 2022, hyperparameters of each data set",
            [f"pplr::{name}.yaml"],
            {"stages.adapt": {"labels.labellings.main.clusterer.eps": eps, "objective": [*LOSSES, *camera_losses(weight)]}},
        )
        for name, (eps, weight) in SETTINGS.items()
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("pplr"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
