"""The shipped recipes match their snapshots and keep the values of the released code."""

from __future__ import annotations

import math

import pytest
import torch

import reidx
from reidx.registry.build import build
from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

PAIRS = {  # source, target
    "duke_to_market1501": ("DukeMTMC", "Market1501"),
    "market1501_to_duke": ("Market1501", "DukeMTMC"),
    "market1501_to_msmt17": ("Market1501", "MSMT17"),
}
STRONG = [f"uda_baseline::{name}.yaml" for name in PAIRS]
JOINT = [f"uda_baseline::joint_{name}.yaml" for name in PAIRS]
SMALL = [
    f"uda_baseline::{name}_small.yaml" for name in ("market1501_c123_to_c456", "synthetic_to_market1501", "synthetic")
]
EMBED = {"loss": {"type": "CrossEntropy"}, "feature": "embed", "weight": 1.0}
POOLED = {"loss": {"type": "Triplet", "margin": None}, "feature": "pooled", "weight": 1.0}
PRETRAIN_LOSSES = [{**EMBED, "loss.smoothing": 0.1, "stream": "source"}, {**POOLED, "stream": "source"}]
ADAPT_LOSSES = [
    {**EMBED, "loss.smoothing": 0.0, "stream": "target", "memory": ["identities", "clusters"]},
    {**POOLED, "stream": "target"},
]
BOTH = {"stream": ["source", "target"], "memory": ["identities", "clusters"]}
JOINT_LOSSES = [{**EMBED, **BOTH, "loss.smoothing": 0.1}, {**POOLED, **BOTH}]
STATED = [
    *(
        Stated(
            "the data of both baselines",
            [f"uda_baseline::{name}.yaml", f"uda_baseline::joint_{name}.yaml"],
            {"data": {"image_size": [256, 128], "domains": {"source.type": source, "target.type": target}}},
        )
        for name, (source, target) in PAIRS.items()
    ),
    Stated(
        "the released code of both baselines",
        [*STRONG, *JOINT],
        {
            "stages.*": {
                "model": {"bn_group": 16, "fusion": {"pool": "gem", "normalize": False}},
                "optimizer": {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4},
                "evaluate": {"domain": "target", "flip": False, "metric": "cosine"},
            },
            "stages.adapt": {
                "model.domain_bn": True,
                "optimization.restart_every": 1,
                "schedule": [],
                "streams.*": {
                    "sampler": {"identities": 16, "instances": 4, "singles": "once"},
                    "transform.erase": 0.5,
                },
                "labels.labellings.main": {
                    "distance": {"k1": 30, "k2": 6},
                    "clusterer": {"type": "DBSCAN", "eps": 0.6, "min_samples": 4},
                },
            },
        },
    ),
    Stated(
        "the released code of UDAStrongBaseline",
        STRONG,
        {
            "stages.*.model.backbone": {
                "type": "uda_baseline.NonLocalResNet",
                "name": "resnet50.tv_in1k",
                "blocks": [0, 2, 3, 0],
                "inner": 1,
            },
            "stages.pretrain": {
                "epochs": 80,
                "iters": 200,
                "model.domain_bn": False,
                "labels.labellings": {},
                "teachers": {},
                "streams": {
                    "*.transform.erase": 0,
                    "target": {"labels": None, "sampler": {"type": "Shuffle", "batch": 64}},
                },
                "memories.*.memory.rows": "random",
                "objective": PRETRAIN_LOSSES,
                "optimization.restart_every": None,
                "schedule": [{"end": 11}, {"milestones": [40, 70]}],
                "evaluate.network": "student",
            },
            "stages.adapt": {
                "epochs": 200,
                "iters": 300,
                "init": "stage:pretrain",
                "teachers.mean": {"type": "EMA", "of": "student", "momentum": 0.999, "warmup": True},
                "labels.labellings.main": {"network": "mean", "relabel_every": 6},
                "memories.*.memory.rows": "uniform",
                "objective": ADAPT_LOSSES,
                "evaluate.network": "mean",
            },
        },
    ),
    Stated(
        "the released code of OpenUnReID's strong baseline",
        JOINT,
        {
            "stages.adapt": {
                "epochs": 50,
                "iters": 400,
                "init": None,
                "teachers": {},
                "model.backbone": {"type": "Timm", "name": "resnet50.tv_in1k"},
                "labels.labellings.main": {"network": "student", "relabel_every": 1},
                "memories": {"identities.memory.rows": "random", "clusters.memory.rows": "centroid"},
                "objective": JOINT_LOSSES,
            }
        },
    ),
    Stated(
        "the released code of UDAStrongBaseline, also in short trainings",
        SMALL,
        {
            "stages.pretrain": {"model.domain_bn": False, "objective": PRETRAIN_LOSSES, "optimization.restart_every": None},
            "stages.adapt": {"model.domain_bn": True, "objective": ADAPT_LOSSES, "optimization.restart_every": 1},
        },
    ),
    Stated(
        "the released code of OpenUnReID's strong baseline, also where training is short",
        ["uda_baseline::joint_market1501_c123_to_c456_small.yaml"],
        {"stages.adapt": {"model.domain_bn": True, "objective": JOINT_LOSSES, "optimization.restart_every": 1}},
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("uda_baseline"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()


@pytest.mark.parametrize("name", [*PAIRS, "market1501_c123_to_c456_small", "synthetic_small"])
def test_classifier_rows_are_drawn_as_released(name: str) -> None:
    """Pre-training draws rows with standard deviation 0.001, `adapt` uniformly from ±1/√D like torch's linear layer."""
    pretrain, adapt = reidx.load_config(f"uda_baseline::{name}.yaml").experiment.stages
    torch.manual_seed(0)
    drawn = []
    for stage in (pretrain, adapt):
        memory = build("memory", stage.memories["identities"].memory, dim=2048)
        memory.reset(None, torch.arange(700))
        drawn.append(memory.weight.detach())
    first, later = drawn
    assert first.std().item() == pytest.approx(0.001, rel=0.01)
    assert first.mean().abs().item() < 1e-5
    assert (first.abs() > 0.001).float().mean().item() == pytest.approx(0.3173, abs=0.005)  # a normal's share
    limit = 1 / math.sqrt(2048)
    assert later.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.01)
    assert later.abs().max().item() == pytest.approx(limit, rel=0.001)
