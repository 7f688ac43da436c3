"""The configs as they resolve: the published settings, what each variant changes, and the rates of the first stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import reidx
from reidx.config.config import Config
from reidx.config.schema import Stage
from reidx.registry.discovery import config_root

Tiny = Callable[..., Config]

# LF2 sections 3.2 and 7: data sets, clusters
PUBLISHED = {
    "duke_to_market1501": ("DukeMTMC", "Market1501", 700),
    "market1501_to_duke": ("Market1501", "DukeMTMC", 900),
    "market1501_to_msmt17": ("Market1501", "MSMT17", 1500),
}
SMALL = ["market1501_small", "market1501_c123_to_c456_small", "synthetic_to_market1501_small", "synthetic_small"]
IDENTITY = ("CrossEntropy", "g", "global", "classifier", 1.0)
TRIPLETS = [("Triplet", "g", "global", None, 1.0), ("Triplet", "u", "upper", None, 0.5), ("Triplet", "l", "lower", None, 0.5)]


def stages(config: Config) -> dict[str, Stage]:
    return {stage.name: stage for stage in config.experiment.stages}


def terms(stage: Stage) -> list[tuple[Any, ...]]:
    return [(term.loss["type"], term.stream, term.feature, term.memory, term.weight) for term in stage.objective]


def test_the_configs_that_there_are() -> None:
    root = config_root("lf2")
    assert {path.stem for path in root.glob("*.yaml")} == {
        "direct", "baseline", "uda", "source_free", "market1501", *PUBLISHED, *SMALL,
    }  # fmt: skip
    assert {path.stem for path in root.glob("data/*.yaml")} == set(PUBLISHED)
    assert {path.stem for path in root.glob("variants/*.yaml")} == {
        "without_fm", "const_gate", "part_head", "fusion_triplet", "mul_then_gate", "paper", "shared", "small",
    }  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_released_settings(name: str) -> None:
    source, target, clusters = PUBLISHED[name]
    experiment = reidx.load_config(f"lf2::{name}.yaml").experiment
    domains = experiment.data.domains
    assert (domains["source"]["type"], domains["target"]["type"]) == (source, target)
    assert experiment.data.image_size == (256, 128) and experiment.data.interpolation == "bicubic"
    pretrain, adapt = experiment.stages
    assert (pretrain.name, pretrain.epochs, pretrain.iters) == ("pretrain", 80, 200)
    assert (adapt.name, adapt.epochs, adapt.iters, adapt.init) == ("adapt", 80, 400, "stage:pretrain")
    for stage in experiment.stages:
        assert stage.model.backbone["name"] == "resnet50.tv_in1k" and stage.model.backbone["pretrained"]
        assert stage.model.bn_group == 32 and not stage.joint and stage.precision == "auto"
        own = {key: stage.optimizer[key] for key in ("type", "lr", "weight_decay")}
        assert own == {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4} and stage.optimization.lr_batch == 64
        for stream in stage.streams.values():
            sampler, erase = stream.sampler, stream.transform["erase"]
            assert erase == (0 if stage is pretrain else 0.5)
            if stream.labels is None:
                assert (stream.domain, sampler["type"], sampler["batch"]) == ("target", "Shuffle", 64)
            else:
                assert (sampler["identities"], sampler["instances"], sampler["singles"]) == (16, 4, "once")
    assert [stream.labels for stream in pretrain.streams.values()] == ["identity", None]
    for level in "gul":
        clusterer = adapt.labels[level].clusterer
        assert {key: clusterer[key] for key in ("type", "n_clusters", "batch_size", "iterations", "restarts")} == {
            "type": "MiniBatchKMeans", "n_clusters": clusters, "batch_size": 300, "iterations": 100, "restarts": 3,
        }  # fmt: skip
        assert clusterer["normalize"]


def test_the_first_stage_learns_on_the_source_alone(tiny: Tiny) -> None:
    pretrain = stages(tiny("uda"))["pretrain"]
    assert not pretrain.labels and not pretrain.teachers and pretrain.optimization.restart_every is None
    assert terms(pretrain) == [
        ("CrossEntropy", "source", "global", "classifier", 1.0),
        ("Triplet", "source", "pooled", None, 1.0),
    ]
    assert pretrain.objective[0].loss["smoothing"] == 0.1 and pretrain.objective[1].loss["margin"] is None
    classifier = pretrain.memories["classifier"]
    assert classifier.memory["rows"] == "random" and classifier.labels == "identity"
    assert pretrain.evaluate.domain == "target" and pretrain.evaluate.network == "student"


def test_the_second_stage_is_wired_as_released(tiny: Tiny) -> None:
    adapt = stages(tiny("uda"))["adapt"]
    mean = adapt.teachers["mean"]
    assert (mean.type, mean.of, mean.momentum, mean.warmup, mean.batch_norm) == ("EMA", "student", 0.999, True, "own")
    assert {name: (level.feature, level.network, level.flip, level.domain) for name, level in adapt.labels.items()} == {
        name: (phi, "student", True, "target") for name, phi in zip("gul", ("phi0", "phi1", "phi2"))
    }
    assert {name: stream.labels for name, stream in adapt.streams.items()} == {"g": "g", "u": "u", "l": "l"}
    assert terms(adapt) == [IDENTITY, *TRIPLETS]
    assert adapt.objective[0].loss["smoothing"] == 0.1
    assert all(term.loss["margin"] is None and not term.loss["normalize"] for term in adapt.objective[1:])
    classifier = adapt.memories["classifier"]
    assert (classifier.feature, classifier.labels, classifier.memory["rows"]) == ("phi0", "g", "centroid")
    assert not classifier.memory["normalize"] and adapt.optimization.restart_every == 1 and not adapt.schedule
    assert adapt.model.fusion == {
        "type": "lf2.FusionModule", "mode": "fused", "gate": "frozen", "order": "gate_then_mul", "pool": "avg+max",
        "part_input": "concat", "reduction": 4,
    }  # fmt: skip
    tested = adapt.evaluate
    assert (tested.network, tested.feature, tested.flip, tested.metric) == ("mean", "embed", True, "cosine")


def test_the_rates_of_the_first_stage() -> None:
    stage = stages(reidx.load_config("lf2::duke_to_market1501.yaml"))["pretrain"]
    warmup, steps = stage.schedule
    assert steps == {"type": "MultiStepLR", "milestones": [40, 70], "gamma": 0.1}
    # a line that begins at a hundredth and is whole in the eleventh epoch: its last value is that of epoch end - 1
    assert warmup == {"type": "LinearLR", "start_factor": 0.01, "end": 11}
    for epoch in range(10):
        reached = warmup["start_factor"] + (1 - warmup["start_factor"]) * epoch / (warmup["end"] - 1)
        assert reached == pytest.approx(0.01 * (1 - epoch / 10) + epoch / 10)


VARIANTS: dict[str, dict[str, Any]] = {
    "without_fm": {"mode": "local"},
    "const_gate": {"gate": "const"},
    "part_head": {"gate": "part_head", "part_input": "sum"},
    "fusion_triplet": {"gate": "fusion_triplet"},
    "mul_then_gate": {"order": "mul_then_gate"},
    "paper": {"part_input": "sum"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_it_says(name: str, tiny: Tiny) -> None:
    plain, other = stages(tiny("uda")), stages(tiny(f"uda {name}"))
    expected = {**plain["adapt"].model.fusion, **VARIANTS[name]}
    adapt, pretrain = other["adapt"], other["pretrain"]
    assert adapt.model.fusion == expected
    more = [("Triplet", "u", "phi1", None, 0.5), ("Triplet", "l", "phi2", None, 0.5)] if name == "fusion_triplet" else []
    assert terms(adapt) == [IDENTITY, *TRIPLETS, *more]
    same = replace(adapt, model=plain["adapt"].model, objective=plain["adapt"].objective)
    assert same == plain["adapt"] and adapt.objective[:4] == plain["adapt"].objective
    assert pretrain.objective[1].loss["margin"] == (0.5 if name == "paper" else None)
    assert replace(pretrain, objective=plain["pretrain"].objective) == plain["pretrain"]


@pytest.mark.parametrize("name", ["uda", "source_free"])
def test_shared_is_one_stream_that_each_loss_reads_by_its_own_labels(name: str, tiny: Tiny) -> None:
    plain, shared = stages(tiny(name))["adapt"], stages(tiny(f"{name} shared"))["adapt"]
    assert list(shared.streams) == ["g"] and shared.streams["g"] == plain.streams["g"]
    for own, other in zip(plain.objective, shared.objective, strict=True):
        assert replace(own, stream="g") == replace(other, labels=None)
    read = [shared.labels_of(term, "g") for term in shared.objective]
    assert read == [plain.streams[term.stream].labels for term in plain.objective] == ["g", "g", "u", "l"]
    assert replace(shared, streams=plain.streams, objective=plain.objective) == plain


def test_the_baseline_has_neither_halves_nor_their_labels(tiny: Tiny) -> None:
    plain, baseline = stages(tiny("uda")), stages(tiny("baseline"))
    assert baseline["pretrain"] == plain["pretrain"]
    adapt = baseline["adapt"]
    assert adapt.model.fusion["mode"] == "global" and terms(adapt) == [IDENTITY, TRIPLETS[0]]
    assert list(adapt.labels) == list(adapt.streams) == ["g"] and adapt.labels["g"] == plain["adapt"].labels["g"]


def test_one_stage_of_the_two_is_a_config_of_its_own(tiny: Tiny) -> None:
    both = stages(tiny("uda"))
    assert stages(tiny("direct")) == {"pretrain": both["pretrain"]}
    assert stages(tiny("source_free")) == {"adapt": replace(both["adapt"], init=None)}


def test_another_clusterer_is_one_line(tiny: Tiny) -> None:
    other = ["labels.clusterer={type: DBSCAN, eps: 0.6}", "labels.distance={type: Jaccard}"]
    for level in stages(tiny("uda", *other))["adapt"].labels.values():
        assert level.clusterer["type"] == "DBSCAN" and level.distance is not None


def test_weights_that_are_given_stand_in_for_the_first_stage() -> None:
    experiment = reidx.load_config("lf2::market1501.yaml").experiment
    (adapt,) = experiment.stages
    assert list(experiment.data.domains) == ["target"] and adapt.init is None
    assert adapt.model.backbone["weights"] and not adapt.model.backbone["pretrained"]
    assert (adapt.epochs, adapt.iters, adapt.labels["g"].clusterer["n_clusters"]) == (80, 400, 700)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_is_the_method_at_another_length(name: str) -> None:
    adapt = stages(reidx.load_config(f"lf2::{name}.yaml"))["adapt"]
    assert terms(adapt) == [IDENTITY, *TRIPLETS] and adapt.model.bn_group == 64
    assert adapt.epochs * adapt.iters * 3 * 64 == (52_224 if name == "market1501_small" else 26_112)
    assert adapt.model.backbone["type"] == ("Timm" if name == "synthetic_small" else "osnet.OSNet")
    assert adapt.labels["g"].monitor
