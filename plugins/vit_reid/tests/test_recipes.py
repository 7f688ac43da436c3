"""The shipped recipes match their snapshots and keep the values of the released codes' commands."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

TARGETS = {"market1501": ("Market1501", 0.6, 64, "cat"), "msmt17": ("MSMT17", 0.7, 128, "mean")}
"""Type, eps, images per device, combination of PASS's tokens."""

METHODS = {  # stem, part tokens, file
    "transreid_ssl": ("patch", 0, "vit_small_cfs_lup.pth"),
    "transreid_ssl_ics": ("ics", 0, "vit_small_ics_cfs_lup.pth"),
    "pass": ("patch", 3, "pass_vit_small_full.pth"),
}
PAIRS = {"market1501": "msmt17_to_market1501", "msmt17": "market1501_to_msmt17"}

ALL = [f"vit_reid::{method}_{data}.yaml" for method in METHODS for data in (*TARGETS, *PAIRS.values())]

STATED = [
    Stated(
        "the released codes' commands and defaults",
        ALL,
        {
            "data": {"interpolation": "bicubic", "image_size": [256, 128]},
            "stages.adapt": {
                "epochs": 50,
                "iters": 200,
                "model.backbone": {"type": "vit_reid.ViT", "width": 384, "depth": 12, "patch": 16, "drop_path": 0.3},
                "streams.target": {
                    "sampler": {"identities": 32, "instances": 8},  # 256 images
                    "transform": {"flip": 0.5, "pad": 10, "erase": 0.5},
                },
                "labels.labellings.main": {
                    "distance": {"type": "Jaccard", "k1": 30, "k2": 6},
                    "clusterer": {"type": "DBSCAN", "min_samples": 4},
                },
                "memories.centroids.memory": {"type": "cluster_contrast.ClusterMemory", "momentum": 0.2, "update": "hard"},
                "objective.0.loss.temperature": 0.05,
                "optimizer": {"type": "SGD", "lr": 3.5e-4, "momentum": 0.9, "weight_decay": 5e-4},
                "schedule.0": {"type": "StepLR", "step_size": 20, "gamma": 0.1},
            },
        },
    ),
    *(
        Stated(
            "the released codes' commands for each data set",
            [f"vit_reid::{method}_{data}.yaml", f"vit_reid::{method}_{PAIRS[data]}.yaml"],
            {
                "data.domains.target.type": kind,
                "stages.adapt": {
                    "model": {
                        "backbone": {"stem": stem, "part_tokens": parts, "weights": f"weights/{file}"},
                        "fusion": {"type": "vit_reid.ClassAndParts", "combine": combine} if parts else {"type": "ClassToken"},
                        "bn_group": group,
                    },
                    "labels.labellings.main.clusterer.eps": eps,
                },
            },
        )
        for data, (kind, eps, group, combine) in TARGETS.items()
        for method, (stem, parts, file) in METHODS.items()
    ),
    *(
        Stated(
            "PASS's commands: one BatchNorm without a source, one for each token with a source",
            [f"vit_reid::pass_{name}.yaml" for name in names],
            {"stages.adapt.model.fusion.necks": necks},
        )
        for necks, names in (("one", TARGETS), ("each", PAIRS.values()))
    ),
    Stated(
        "the released codes' configs for training with labels",
        [f"vit_reid::{method}_{pair}.yaml" for method in METHODS for pair in PAIRS.values()],
        {
            "stages.pretrain": {
                "epochs": 120,
                "model": {"backbone.drop_path": 0.1, "bn_group": 64},
                "streams.source": {"sampler": {"identities": 16, "instances": 4}, "transform": {"erase": 0.5}},
                "objective.0.loss": {"type": "CrossEntropy", "smoothing": 0.0},
                "objective.1.loss": {"type": "Triplet", "margin": None},
                "optimizer": {"type": "SGD", "lr": 4e-4, "momentum": 0.9, "weight_decay": 1e-4},
                "schedule.0": {"type": "LinearLR", "start_factor": 0.01, "end": 21},
                "schedule.1": {"type": "CosineAnnealingLR", "eta_min_ratio": 0.002},
            },
        },
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("vit_reid"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
