"""The shipped recipes match their snapshots and keep the values of the released code."""

from __future__ import annotations

import pytest

import reidx
from reidx.config.schema import Stage
from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

PAIRS = {  # source, target, clusters
    "duke_to_market1501": ("DukeMTMC", "Market1501", 500),
    "market1501_to_duke": ("Market1501", "DukeMTMC", 700),
    "market1501_to_msmt17": ("Market1501", "MSMT17", 1500),
}
PUBLISHED = [f"mmt::{name}.yaml" for name in PAIRS]
SMALL = [f"mmt::{name}_small.yaml" for name in ("market1501_c123_to_c456", "synthetic_to_market1501", "synthetic")]
PRETRAIN = {
    "epochs": 80,
    "iters": 100,
    "teachers": {},
    "labels.labellings": {},
    "streams.source": {
        "labels": "identity",
        "sampler": {"identities": 16, "instances": 4},
        "transform.erase": 0,
    },
    "streams.target": {"labels": None, "sampler": {"type": "Shuffle", "batch": 64}, "transform.erase": 0, "views": {}},
    "objective": [
        {"loss": {"type": "CrossEntropy", "smoothing": 0.1}, "stream": "source", "feature": "embed", "weight": 1.0},
        {"loss": {"type": "Triplet", "margin": None}, "stream": "source", "feature": "pooled", "weight": 1.0},
    ],
    "optimization.restart_every": None,
    "schedule": [
        {"type": "LinearLR", "start_factor": 0.01, "end": 11},
        {"type": "MultiStepLR", "milestones": [40, 70], "gamma": 0.1},
    ],
    "evaluate.network": "student",
}
LOSSES = [  # of one network: weights 1 - a and a for hard and soft classes (a = 0.5), 1 - b and b for triplets (b = 0.8)
    {"loss": {"type": "CrossEntropy", "smoothing": 0.1}, "weight": 0.5},
    {"loss": {"type": "mmt.SoftCrossEntropy"}, "weight": 0.5},
    {"loss": {"type": "Triplet"}, "weight": 0.2},
    {"loss": {"type": "mmt.SoftTriplet"}, "weight": 0.8},
]
TEACHER = {"type": "EMA", "momentum": 0.999, "warmup": True, "batch_norm": "own"}
BATCH = {"identities": 16, "instances": 4, "singles": "once"}
STATED = [
    Stated(
        "the released code",
        PUBLISHED,
        {
            "data.image_size": [256, 128],
            "stages.*": {
                "model": {"backbone.name": "resnet50.tv_in1k", "fusion": {"pool": "avg", "normalize": False}, "bn_group": 16},
                "optimizer": {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4},
                "evaluate": {"domain": "target", "flip": False, "metric": "cosine"},
            },
            "stages.pretrain": PRETRAIN,
            "stages.pretrain2": PRETRAIN,
            "stages.adapt": {
                "epochs": 40,
                "iters": 400,
                "init": "stage:pretrain",
                "teachers": {
                    "peer.weights": "stage:pretrain2",
                    "mean": {**TEACHER, "of": "student"},
                    "peer_mean": {**TEACHER, "of": "peer"},
                },
                "network_streams": {"student": ["target"], "mean": ["target"], "peer": ["second"], "peer_mean": ["second"]},
                "streams.target": {"sampler": BATCH, "transform.erase": 0.5, "views.second.erase": 0.5},
                "labels.labellings.main": {"network": ["mean", "peer_mean"], "flip": False, "relabel_every": 1},
                "memories.*": {"memory": {"rows": "centroid"}, "network": ["mean", "peer_mean"]},
                "objective": [*LOSSES, *LOSSES],
                "optimization.restart_every": 1,
                "schedule": [],
                "evaluate.network": "mean",
            },
        },
    ),
    *(
        Stated(
            "the released code's commands",
            [f"mmt::{name}.yaml"],
            {
                "data.domains": {"source.type": source, "target.type": target},
                "stages.adapt.labels.labellings.main.clusterer": {"type": "KMeans", "n_clusters": clusters},
            },
        )
        for name, (source, target, clusters) in PAIRS.items()
    ),
    Stated(
        "the released code's variant with DBSCAN",
        ["mmt::duke_to_market1501_dbscan.yaml"],
        {
            "stages.adapt.labels.labellings.main": {
                "clusterer": {"type": "AdaptiveDBSCAN", "share": 0.0016, "min_samples": 4},
                "distance": {"type": "mmt.RerankingJaccard", "k1": 20, "k2": 6},
            }
        },
    ),
    Stated(
        "the released code, also in short trainings",
        SMALL,
        {
            "stages.pretrain": {"labels.labellings": {}, "optimization.restart_every": None},
            "stages.pretrain2": {"labels.labellings": {}, "optimization.restart_every": None},
            "stages.adapt": {
                "labels.labellings.main.clusterer.type": "KMeans",
                "objective": [*LOSSES, *LOSSES],
                "optimization.restart_every": 1,
            },
        },
    ),
]


def stages(name: str) -> list[Stage]:
    return reidx.load_config(f"mmt::{name}.yaml").experiment.stages


def test_second_pretraining_repeats_the_first() -> None:
    first, second, _ = stages("duke_to_market1501")
    assert {**vars(second), "name": first.name} == vars(first)  # the random numbers differ because the position does


def test_dbscan_variant_differs_only_in_labels() -> None:
    (*_, plain), (*_, dense) = stages("duke_to_market1501"), stages("duke_to_market1501_dbscan")
    assert {**vars(dense), "labels": plain.labels} == vars(plain)


def test_source_free_recipe_is_the_second_stage() -> None:
    (*_, adapt), (alone,) = stages("duke_to_market1501"), stages("market1501_small")
    assert alone.objective == adapt.objective
    assert alone.memories == adapt.memories
    assert alone.network_streams == adapt.network_streams
    assert alone.init is None
    assert alone.teachers["peer"].weights is None


@pytest.mark.parametrize("address", snapshots.recipes("mmt"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
