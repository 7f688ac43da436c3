"""The shipped recipes match their snapshots and keep the values of the released code."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

PAIRS = {  # source, target, clusters
    "duke_to_market1501": ("DukeMTMC", "Market1501", 700),
    "market1501_to_duke": ("Market1501", "DukeMTMC", 900),
    "market1501_to_msmt17": ("Market1501", "MSMT17", 1500),
}
PUBLISHED = [f"lf2::{name}.yaml" for name in PAIRS]
SMALL = [
    f"lf2::{name}_small.yaml"
    for name in ("market1501", "market1501_c123_to_c456", "synthetic_to_market1501", "synthetic")
]
BATCH = {"identities": 16, "instances": 4, "singles": "once"}
TRIPLET = {"loss": {"type": "Triplet", "margin": None, "normalize": False}, "memory": None}
LOSSES = [  # alpha = lambda = 1, gamma = 0.5
    {"loss": {"type": "CrossEntropy", "smoothing": 0.1}, "stream": "g", "feature": "global", "memory": "classifier",
        "weight": 1.0},
    {**TRIPLET, "stream": "g", "feature": "global", "weight": 1.0},
    {**TRIPLET, "stream": "u", "feature": "upper", "weight": 0.5},
    {**TRIPLET, "stream": "l", "feature": "lower", "weight": 0.5},
]
CLUSTERER = {"type": "MiniBatchKMeans", "batch_size": 300, "iterations": 100, "restarts": 3, "normalize": True}
STATED = [
    Stated(
        "the released code",
        PUBLISHED,
        {
            "data": {"image_size": [256, 128], "interpolation": "bicubic"},
            "stages.*": {
                "joint": False,
                "model": {"bn_group": 32, "backbone": {"name": "resnet50.tv_in1k", "pretrained": True}},
                "optimizer": {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4},
                "optimization": {"lr_batch": 64},
            },
            "stages.pretrain": {
                "epochs": 80,
                "iters": 200,
                "teachers": {},
                "labels.labellings": {},
                "streams": {
                    "source": {"labels": "identity", "sampler": BATCH},
                    "target": {"labels": None, "domain": "target", "sampler": {"type": "Shuffle", "batch": 64}},
                    "*.transform.erase": 0,
                },
                "memories.classifier": {"memory": {"rows": "random"}, "labels": "identity"},
                "objective": [
                    {"loss": {"type": "CrossEntropy", "smoothing": 0.1}, "stream": "source", "feature": "global",
                        "memory": "classifier"},
                    {"loss": {"type": "Triplet", "margin": None}, "stream": "source", "feature": "pooled", "memory": None},
                ],
                "optimization.restart_every": None,
                # the rate rises from a hundredth to its full value in ten epochs
                "schedule": [
                    {"type": "LinearLR", "start_factor": 0.01, "end": 11},
                    {"type": "MultiStepLR", "milestones": [40, 70], "gamma": 0.1},
                ],
                "evaluate": {"domain": "target", "network": "student"},
            },
            "stages.adapt": {
                "epochs": 80,
                "iters": 400,
                "init": "stage:pretrain",
                "model.fusion": {
                    "type": "lf2.FusionModule",
                    "mode": "fused",
                    "gate": "frozen",
                    "order": "gate_then_mul",
                    "pool": "avg+max",
                    "part_input": "concat",
                    "reduction": 4,
                },
                "teachers.mean": {"type": "EMA", "of": "student", "momentum": 0.999, "warmup": True, "batch_norm": "own"},
                "streams": {name: {"labels": name, "sampler": BATCH, "transform.erase": 0.5} for name in "gul"},
                "labels.labellings": {
                    "*": {"domain": "target", "network": "student", "flip": True},
                    **{name: {"feature": feature, "clusterer": CLUSTERER} for name, feature in zip("gul", ("phi0",
                        "phi1", "phi2"))},
                },
                "memories.classifier": {"memory": {"rows": "centroid", "normalize": False}, "feature": "phi0", "labels": "g"},
                "objective": LOSSES,
                "optimization.restart_every": 1,
                "schedule": [],
                "evaluate": {"network": "mean", "feature": "embed", "flip": True, "metric": "cosine"},
            },
        },
    ),
    *(
        Stated(
            "the released code, settings of a pair of data sets; for MSMT17 those of MMT",
            [f"lf2::{name}.yaml"],
            {
                "data.domains": {"source.type": source, "target.type": target},
                "stages.adapt.labels.labellings.*.clusterer.n_clusters": clusters,
            },
        )
        for name, (source, target, clusters) in PAIRS.items()
    ),
    Stated(
        "the released code, from given weights",
        ["lf2::market1501.yaml"],
        {
            "stages.adapt": {
                "epochs": 80,
                "iters": 400,
                "init": None,
                "model.backbone": {"weights": "weights/resnet50_source.pth", "pretrained": False},
                "labels.labellings.g.clusterer.n_clusters": 700,
            }
        },
    ),
    Stated("the released code, also in short training", SMALL, {"stages.adapt.objective": LOSSES}),
]


@pytest.mark.parametrize("address", snapshots.recipes("lf2"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
