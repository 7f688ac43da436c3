"""The shipped recipes match their snapshots and keep the values of the paper."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

PAPER = "Lan et al. 2023"
DATA_SETS = {"market1501": ("Market1501", 200, 0.6), "msmt17": ("MSMT17", 400, 0.7)}  # type, steps per epoch, eps
PUBLISHED = [f"lp::{name}.yaml" for name in DATA_SETS]
OTHERS = {  # data sets without published settings: type, protocol
    "sysu_mm01": ("SYSUMM01", {"type": "SYSUMM01", "search": "all", "shots": "single", "trials": 10}),
    "sysu_mm01_indoor": ("SYSUMM01", {"type": "SYSUMM01", "search": "indoor", "shots": "single", "trials": 10}),
    "ltcc": ("LTCC", {"type": "Market1501"}),
    "ltcc_cloth_changing": ("LTCC", {"type": "ClothChanging", "trials": 0}),
    "mlr_cuhk03": ("MLRCUHK03", {"type": "SingleGalleryShot", "trials": 10}),
}
WEIGHTS = {"global": 0.8, "upper": 0.2, "lower": 0.2}  # 1 - lambda2, lambda2, lambda2 with lambda2 = 0.2
CONTRAST = [
    {"loss": {"type": "MemoryContrast", "temperature": 0.05}, "feature": view, "memory": view, "teacher": None,
        "weight": weight}
    for view, weight in WEIGHTS.items()
]
DISTIL = [  # mu times the weights, with mu = 1
    {"loss": {"type": "lp.FeatureDistil"}, "feature": view, "memory": None, "teacher": "offline", "weight": weight}
    for view, weight in WEIGHTS.items()
]
OFFLINE = {"offline": {"type": "Frozen", "weights": "stage:teacher", "statistics": "batch"}}
STATED = [
    Stated(
        f"{PAPER}, implementation details",
        PUBLISHED,
        {
            "data.image_size": [256, 128],
            "stages.*": {
                "model": {"bn_group": 64, "backbone": {"name": "resnet50.tv_in1k", "pretrained": True}},
                "streams.target.sampler": {"type": "PK", "identities": 16, "instances": 16},
                "labels.labellings.main.distance.lambda1": 0.15,
                "optimizer": {"type": "Adam", "weight_decay": 5e-4},
                "evaluate.feature": "embed",
            },
        },
    ),
    *(
        Stated(
            f"{PAPER}, schedule on each data set",
            [f"lp::{name}.yaml"],
            {
                "data.domains.target.type": kind,
                "stages.*.labels.labellings.main.clusterer.eps": eps,
                "stages.teacher": {"epochs": 50, "iters": iters, "schedule.0.step_size": 20},
                "stages.warmup": {"epochs": 1, "iters": 2 * iters},
                "stages.student": {"epochs": 50, "iters": iters, "schedule.0.milestones": [19, 39]},
            },
        )
        for name, (kind, iters, eps) in DATA_SETS.items()
    ),
    *(
        Stated(
            "the settings of Market-1501, on a data set without published ones",
            [f"lp::{name}.yaml"],
            {
                "data": {"image_size": [256, 128], "domains.target.type": kind},
                "stages.*": {
                    "model": {"bn_group": 64, "backbone": {"name": "resnet50.tv_in1k", "pretrained": True}},
                    "labels.labellings.main.clusterer.eps": 0.6,
                },
                "stages.teacher": {"epochs": 50, "iters": 200},
                "stages.warmup": {"epochs": 1, "iters": 400},
                "stages.student": {"epochs": 50, "iters": 200, "evaluate.protocol": protocol},
            },
        )
        for name, (kind, protocol) in OTHERS.items()
    ),
    Stated(
        f"{PAPER}, losses; only in the warm-up, labels and fixed centroids come from the teacher",
        PUBLISHED,
        {
            "stages.*.memories": {view: {"feature": view} for view in WEIGHTS},
            "stages.teacher": {
                "init": None,
                "teachers": {},
                "labels.labellings.main.network": "student",
                "memories.*": {"memory": {"momentum": 0.1}, "network": "student"},
                "objective": CONTRAST,
            },
            "stages.warmup": {
                "init": None,
                "optimization.state_from": None,
                "teachers": OFFLINE,
                "labels.labellings.main.network": "offline",
                "memories.*": {"memory": {"momentum": 1.0}, "network": "offline"},
                "objective": [*CONTRAST, *DISTIL],
            },
            "stages.student": {
                "init": "stage:warmup",
                "optimization.state_from": "stage:warmup",
                "teachers": OFFLINE,
                "labels.labellings.main.network": "student",
                "memories.*": {"memory": {"momentum": 0.1}, "network": "student"},
                "objective": [*CONTRAST, *DISTIL],
            },
        },
    ),
    Stated(
        "the plan of the small recipes: equally long training of the teacher and the student",
        ["lp::market1501_small.yaml"],
        {
            "stages.*.streams.target.sampler.instances": 4,
            "stages.teacher": {"epochs": 8, "iters": 100},
            "stages.warmup.iters": 200,
            "stages.student": {"epochs": 8, "iters": 100},
        },
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("lp"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
