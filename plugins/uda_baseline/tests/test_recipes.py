"""The recipes: what the released codes set, and what differs from one to the next."""

from __future__ import annotations

import math

import pytest
import torch

import reidx
from reidx.config.schema import Stage
from reidx.registry.build import build


def stages(name: str) -> list[Stage]:
    return reidx.load_config(f"uda_baseline::{name}.yaml").experiment.stages


DATA = [("duke_to_market1501", "DukeMTMC", "Market1501"), ("market1501_to_duke", "Market1501", "DukeMTMC")]
DATA += [("market1501_to_msmt17", "Market1501", "MSMT17")]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(("name", "source", "target"), DATA)
def test_the_data_and_what_both_baselines_have_in_common(name: str, source: str, target: str, joint: bool) -> None:
    experiment = reidx.load_config(f"uda_baseline::{'joint_' if joint else ''}{name}.yaml").experiment
    domains = experiment.data.domains
    assert (domains["source"]["type"], domains["target"]["type"]) == (source, target)
    assert experiment.data.image_size == (256, 128)
    for stage in experiment.stages:
        assert stage.model.bn_group == 16 and stage.model.fusion["pool"] == "gem" and not stage.model.fusion["normalize"]
        optimizer = stage.optimizer
        assert (optimizer["type"], optimizer["lr"], optimizer["weight_decay"]) == ("Adam", 3.5e-4, 5e-4)
        assert (stage.evaluate.domain, stage.evaluate.flip, stage.evaluate.metric) == ("target", False, "cosine")
    adapt = experiment.stages[-1]
    assert adapt.model.domain_bn and adapt.optimizer["restart_every"] == 1 and not adapt.schedule
    for stream in adapt.streams.values():
        sampler = stream.sampler
        assert (sampler["identities"], sampler["instances"], sampler["singles"]) == (16, 4, "once")
        assert stream.transform["erase"] == 0.5
    level = adapt.labels["main"]
    assert level.distance is not None and (level.distance["k1"], level.distance["k2"]) == (30, 6)
    assert (level.clusterer["type"], level.clusterer["eps"], level.clusterer["min_samples"]) == ("DBSCAN", 0.6, 4)


def test_the_stronger_baseline_is_pre_trained_and_learns_from_the_target_alone() -> None:
    pretrain, adapt = stages("duke_to_market1501")
    assert (pretrain.epochs, pretrain.iters, adapt.epochs, adapt.iters) == (80, 200, 200, 300)
    for stage in (pretrain, adapt):
        backbone = stage.model.backbone
        assert (backbone["type"], backbone["name"]) == ("uda_baseline.NonLocalResNet", "resnet50.tv_in1k")
        assert tuple(backbone["blocks"]) == (0, 2, 3, 0) and backbone["inner"] == 1
    assert not pretrain.model.domain_bn and not pretrain.labels and not pretrain.teachers
    assert pretrain.optimizer["restart_every"] is None
    assert {stream.transform["erase"] for stream in pretrain.streams.values()} == {0}
    target = pretrain.streams["target"]
    assert (target.labels, target.sampler["type"], target.sampler["batch"]) == (None, "Shuffle", 64)
    assert [(t["loss"], t["stream"]) for t in pretrain.objective] == [("CrossEntropy", "source"), ("Triplet", "source")]
    assert pretrain.objective[0]["smoothing"] == 0.1 and pretrain.objective[1]["margin"] is None
    assert [s.get("milestones", s.get("end")) for s in pretrain.schedule] == [11, [40, 70]]
    assert adapt.init == "stage:pretrain"
    mean = adapt.teachers["mean"]
    assert (mean.type, mean.of, mean.momentum, mean.warmup) == ("EMA", "student", 0.999, True)
    assert adapt.labels["main"].network == "mean" and adapt.labels["main"].relabel_every == 6
    assert adapt.evaluate.network == "mean" and pretrain.evaluate.network == "student"
    assert [(t["loss"], t["stream"], t["on"]) for t in adapt.objective] == [
        ("CrossEntropy", "target", "embed"),
        ("Triplet", "target", "pooled"),
    ]
    assert adapt.objective[0]["memory"] == ["identities", "clusters"] and adapt.objective[0]["smoothing"] == 0
    assert adapt.objective[1]["margin"] is None
    assert {memory["rows"] for memory in adapt.memories.values()} == {"uniform"}
    assert [memory["rows"] for memory in pretrain.memories.values()] == ["random"]


@pytest.mark.parametrize("recipe", [name for name, _, _ in DATA] + ["market1501_c123_to_c456_small", "synthetic_small"])
def test_rows_are_drawn_as_in_the_released_code(recipe: str) -> None:
    """Pre-training draws from a normal distribution of deviation 0.001, later rows from ±1/√D, as a linear layer of torch."""
    pretrain, adapt = stages(recipe)
    torch.manual_seed(0)
    drawn = []
    for stage in (pretrain, adapt):
        spec = {key: stage.memories["identities"][key] for key in ("type", "rows", "normalize", "scale", "parts")}
        memory = build("memory", spec, dim=2048)
        memory.reset(None, torch.arange(700))
        drawn.append(memory.weight.detach())
    first, later = drawn
    assert first.std().item() == pytest.approx(0.001, rel=0.01) and first.mean().abs().item() < 1e-5
    assert (first.abs() > 0.001).float().mean().item() == pytest.approx(0.3173, abs=0.005)  # beyond one deviation, if normal
    limit = 1 / math.sqrt(2048)
    assert later.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.01)
    assert later.abs().max().item() == pytest.approx(limit, rel=0.001)


def test_the_joint_baseline_learns_from_both_domains_at_once() -> None:
    (adapt,) = stages("joint_duke_to_market1501")
    assert (adapt.epochs, adapt.iters, adapt.init, adapt.teachers) == (50, 400, None, {})
    assert (adapt.model.backbone["type"], adapt.model.backbone["name"]) == ("Timm", "resnet50.tv_in1k")
    assert [(t["loss"], t["on"], t["weight"]) for t in adapt.objective] == [
        ("CrossEntropy", "embed", 1.0),
        ("Triplet", "pooled", 1.0),
    ]
    for term in adapt.objective:
        assert (term["stream"], term["memory"]) == (["source", "target"], ["identities", "clusters"])
    assert adapt.objective[0]["smoothing"] == 0.1 and adapt.objective[1]["margin"] is None
    assert {name: memory["rows"] for name, memory in adapt.memories.items()} == {"identities": "random", "clusters": "centroid"}
    assert adapt.labels["main"].network == "student" and adapt.labels["main"].relabel_every == 1


@pytest.mark.parametrize(
    ("recipe", "images"),
    [
        ("market1501_c123_to_c456_small", 51_200),
        ("synthetic_to_market1501_small", 51_200),
        ("synthetic_small", 56_320),
        ("joint_market1501_c123_to_c456_small", 25_600),
    ],
)
def test_small_recipes_are_the_baselines_with_fewer_steps(recipe: str, images: int) -> None:
    joint = "joint_" if recipe.startswith("joint_") else ""
    found, published = stages(recipe), stages(f"{joint}duke_to_market1501")
    assert [s.name for s in found] == [s.name for s in published]
    for small, whole in zip(found, published):
        assert small.objective == whole.objective and small.memories == whole.memories
        assert small.model.domain_bn == whole.model.domain_bn
        assert small.optimizer["restart_every"] == whole.optimizer["restart_every"]
    assert sum(s.epochs * s.iters * 64 for s in found) == images
