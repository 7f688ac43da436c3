"""The recipes: what the released code sets, and what differs from one to the next."""

from __future__ import annotations

import pytest

import reidx
from reidx.config.schema import Stage


def stages(name: str) -> list[Stage]:
    return reidx.load_config(f"mmt::{name}.yaml").experiment.stages


PUBLISHED = [
    ("duke_to_market1501", "DukeMTMC", "Market1501", 500),
    ("market1501_to_duke", "Market1501", "DukeMTMC", 700),
    ("market1501_to_msmt17", "Market1501", "MSMT17", 1500),
]


@pytest.mark.parametrize(("name", "source", "target", "clusters"), PUBLISHED)
def test_the_published_settings(name: str, source: str, target: str, clusters: int) -> None:
    experiment = reidx.load_config(f"mmt::{name}.yaml").experiment
    domains = experiment.data.domains
    assert (domains["source"]["type"], domains["target"]["type"]) == (source, target)
    assert experiment.data.image_size == (256, 128)
    *pretraining, adapt = experiment.stages
    assert [(s.name, s.epochs, s.iters) for s in pretraining] == [("pretrain", 80, 100), ("pretrain2", 80, 100)]
    assert (adapt.epochs, adapt.iters) == (40, 400)
    for stage in experiment.stages:
        assert stage.model.backbone["name"] == "resnet50.tv_in1k" and stage.model.fusion["pool"] == "avg"
        assert stage.model.bn_group == 16 and not stage.model.fusion["normalize"]
        optimizer = stage.optimizer
        assert (optimizer["type"], optimizer["lr"], optimizer["weight_decay"]) == ("Adam", 3.5e-4, 5e-4)
        assert (stage.evaluate.domain, stage.evaluate.flip, stage.evaluate.metric) == ("target", False, "cosine")
    level = adapt.labels["main"]
    assert level.clusterer["type"] == "KMeans" and level.clusterer["n_clusters"] == clusters
    assert level.network == ["mean", "peer_mean"] and not level.flip and level.relabel_every == 1


def test_a_network_is_pre_trained_on_the_source_while_the_target_passes() -> None:
    first, second, _ = stages("duke_to_market1501")
    assert {**vars(second), "name": first.name} == vars(first)  # but for its place, and so its random numbers
    source, target = first.streams["source"], first.streams["target"]
    assert (source.labels, source.sampler["identities"], source.sampler["instances"]) == ("identity", 16, 4)
    assert (target.labels, target.sampler["type"], target.sampler["batch"], target.views) == (None, "Shuffle", 64, {})
    assert source.transform["erase"] == target.transform["erase"] == 0
    assert [(t["loss"], t["stream"], t["on"], t["weight"]) for t in first.objective] == [
        ("CrossEntropy", "source", "embed", 1.0),
        ("Triplet", "source", "pooled", 1.0),
    ]
    assert first.objective[0]["smoothing"] == 0.1 and first.objective[1]["margin"] is None
    assert first.optimizer["restart_every"] is None and not first.teachers and not first.labels
    warmup, steps = first.schedule
    assert (warmup["type"], warmup["start_factor"], warmup["end"]) == ("LinearLR", 0.01, 11)
    assert (steps["milestones"], steps["gamma"]) == ([40, 70], 0.1)
    assert first.evaluate.network == "student"


def test_two_networks_teach_each_other_by_their_averages() -> None:
    *_, adapt = stages("duke_to_market1501")
    assert (adapt.init, adapt.teachers["peer"].weights) == ("stage:pretrain", "stage:pretrain2")
    for name, of in (("mean", "student"), ("peer_mean", "peer")):
        teacher = adapt.teachers[name]
        assert (teacher.type, teacher.of, teacher.momentum, teacher.warmup) == ("EMA", of, 0.999, True)
        assert teacher.batch_norm == "own"
    assert adapt.sees == {"student": ["target"], "mean": ["target"], "peer": ["second"], "peer_mean": ["second"]}
    target = adapt.streams["target"]
    assert target.transform == target.views["second"] and target.transform["erase"] == 0.5
    sampler = target.sampler
    assert (sampler["identities"], sampler["instances"], sampler["singles"]) == (16, 4, "once")
    for memory in adapt.memories.values():
        assert memory["rows"] == "centroid" and memory["network"] == ["mean", "peer_mean"]
    assert adapt.optimizer["restart_every"] == 1 and not adapt.schedule and adapt.evaluate.network == "mean"
    losses = {term["loss"] for term in adapt.objective}
    assert {loss: [t["weight"] for t in adapt.objective if t["loss"] == loss] for loss in losses} == {
        "CrossEntropy": [0.5, 0.5],
        "mmt.SoftCrossEntropy": [0.5, 0.5],
        "Triplet": [0.2, 0.2],
        "mmt.SoftTriplet": [0.8, 0.8],
    }
    assert [t["smoothing"] for t in adapt.objective if "smoothing" in t] == [0.1, 0.1]


def test_the_variant_by_density_is_the_same_but_for_its_labels() -> None:
    (*_, plain), (*_, dense) = stages("duke_to_market1501"), stages("duke_to_market1501_dbscan")
    level = dense.labels["main"]
    assert level.clusterer == {"type": "AdaptiveDBSCAN", "share": 0.0016, "min_samples": 4}
    assert level.distance is not None and level.distance["type"] == "mmt.RerankingJaccard"
    assert (level.distance["k1"], level.distance["k2"]) == (20, 6)
    assert {**vars(dense), "labels": plain.labels} == vars(plain)


def test_without_a_source_it_is_the_second_stage() -> None:
    (*_, adapt), (alone,) = stages("duke_to_market1501"), stages("market1501_small")
    assert alone.objective == adapt.objective and alone.memories == adapt.memories and alone.sees == adapt.sees
    assert alone.init is None and alone.teachers["peer"].weights is None


SMALL = [
    ("market1501_c123_to_c456_small", ["pretrain", "pretrain2", "adapt"]),
    ("synthetic_to_market1501_small", ["pretrain", "pretrain2", "adapt"]),
    ("synthetic_small", ["pretrain", "pretrain2", "adapt"]),
    ("market1501_small", ["adapt"]),
]


@pytest.mark.parametrize(("name", "expected"), SMALL)
def test_small_recipes_are_the_method_with_fewer_steps(name: str, expected: list[str]) -> None:
    found = stages(name)
    assert [s.name for s in found] == expected
    *_, published = stages("duke_to_market1501")
    adapt = found[-1]
    assert adapt.objective == published.objective and adapt.memories == published.memories
    assert adapt.labels["main"].clusterer["type"] == "KMeans" and adapt.optimizer["restart_every"] == 1
    assert {adapt.teachers[n].momentum for n in ("mean", "peer_mean")} == {0.99}
    assert sum(s.epochs * s.iters * 64 for s in found) <= 76_800
    for stage in found[:-1]:
        assert not stage.labels and stage.optimizer["restart_every"] is None
