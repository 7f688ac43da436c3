"""The resolved configs: the differences between the variants, and the learning rates of the first stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import reidx
from reidx.config.config import Config
from reidx.config.schema import Stage

Tiny = Callable[..., Config]

IDENTITY = ("CrossEntropy", "g", "global", "classifier", 1.0)
TRIPLETS = [("Triplet", "g", "global", None, 1.0), ("Triplet", "u", "upper", None, 0.5), ("Triplet", "l", "lower", None, 0.5)]


def stages(config: Config) -> dict[str, Stage]:
    return {stage.name: stage for stage in config.experiment.stages}


def terms(stage: Stage) -> list[tuple[Any, ...]]:
    return [(term.loss["type"], term.stream, term.feature, term.memory, term.weight) for term in stage.objective]


def test_first_stage_rates_rise_for_ten_epochs() -> None:
    stage = stages(reidx.load_config("lf2::duke_to_market1501.yaml"))["pretrain"]
    warmup, steps = stage.schedule
    assert steps == {"type": "MultiStepLR", "milestones": [40, 70], "gamma": 0.1}
    # linear from a hundredth of the rate to the full rate in the eleventh epoch; the last value is that of epoch end - 1
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
def test_variant_changes_its_own_keys_alone(name: str, tiny: Tiny) -> None:
    plain, other = stages(tiny("uda")), stages(tiny(f"uda {name}"))
    expected = {**plain["adapt"].model.fusion, **VARIANTS[name]}
    adapt, pretrain = other["adapt"], other["pretrain"]
    assert adapt.model.fusion == expected
    more = [("Triplet", "u", "phi1", None, 0.5), ("Triplet", "l", "phi2", None, 0.5)] if name == "fusion_triplet" else []
    assert terms(adapt) == [IDENTITY, *TRIPLETS, *more]
    same = replace(adapt, model=plain["adapt"].model, objective=plain["adapt"].objective)
    assert same == plain["adapt"]
    assert adapt.objective[:4] == plain["adapt"].objective
    assert pretrain.objective[1].loss["margin"] == (0.5 if name == "paper" else None)
    assert replace(pretrain, objective=plain["pretrain"].objective) == plain["pretrain"]


@pytest.mark.parametrize("name", ["uda", "source_free"])
def test_shared_stream_serves_each_losss_labels(name: str, tiny: Tiny) -> None:
    plain, shared = stages(tiny(name))["adapt"], stages(tiny(f"{name} shared"))["adapt"]
    assert list(shared.streams) == ["g"] and shared.streams["g"] == plain.streams["g"]
    for own, other in zip(plain.objective, shared.objective, strict=True):
        assert replace(own, stream="g") == replace(other, labels=None)
    read = [shared.labels_of(term, "g") for term in shared.objective]
    assert read == [plain.streams[term.stream].labels for term in plain.objective] == ["g", "g", "u", "l"]
    assert replace(shared, streams=plain.streams, objective=plain.objective) == plain


def test_baseline_has_no_halves(tiny: Tiny) -> None:
    plain, baseline = stages(tiny("uda")), stages(tiny("baseline"))
    assert baseline["pretrain"] == plain["pretrain"]
    adapt = baseline["adapt"]
    assert adapt.model.fusion["mode"] == "global" and terms(adapt) == [IDENTITY, TRIPLETS[0]]
    assert list(adapt.labels) == list(adapt.streams) == ["g"] and adapt.labels["g"] == plain["adapt"].labels["g"]


def test_each_stage_has_its_config(tiny: Tiny) -> None:
    both = stages(tiny("uda"))
    assert stages(tiny("direct")) == {"pretrain": both["pretrain"]}
    assert stages(tiny("source_free")) == {"adapt": replace(both["adapt"], init=None)}


def test_clusterer_is_replaced_by_one_override(tiny: Tiny) -> None:
    other = ["labels.clusterer={type: DBSCAN, eps: 0.6}", "labels.distance={type: Jaccard}"]
    for level in stages(tiny("uda", *other))["adapt"].labels.values():
        assert level.clusterer["type"] == "DBSCAN" and level.distance is not None


