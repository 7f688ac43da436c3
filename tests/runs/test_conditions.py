"""The conditions above a table of results."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.runs.conditions import WIDTH, condition_lines, conditions_of
from reidx.runs.result import Result, StageResult

EVALUATION = {
    "protocol": "market1501",
    "protocol_version": "1",
    "camera_filter": True,
    "ap": "mean of the precision at each match, not interpolated",
    "metric": "euclidean",
    "reranking": None,
    "queries": 3368,
    "valid_queries": 3368,
    "gallery": 15913,
    "domain": "target",
    "flip": False,
    "feature": "embed",
    "network": "student",
}
STAGE = {"init": None, "weights": "osnet.pth", "precision": "fp32", "selection": "last epoch", "evaluation": EVALUATION}
CARD = {"seed": 3, "image_size": [256, 128], "data": {"target": {"name": "Market-1501", "version": "15.09.15"}}}
METRICS = {"mAP": 0.5, "rank-1": 0.75, "rank-5": 0.9, "rank-10": 1.0, "mINP": 0.25}


def changed(stage: dict[str, Any] | None = None, **evaluation: Any) -> dict[str, str]:
    return conditions_of(CARD, {**deepcopy(STAGE), **(stage or {}), "evaluation": {**EVALUATION, **evaluation}})


def test_lines_state_the_conditions() -> None:
    assert condition_lines({"adapt": changed()}, "by stage") == [
        "Market-1501 15.09.15, 3,368 queries, 15,913 gallery images",
        "protocol market1501 1 (own camera ignored) · AP not interpolated",
        "euclidean distance · feature embed of student · no flip · no re-ranking",
        "images 256x128 · starts from osnet.pth · last epoch · fp32 · seed 3",
    ]


@pytest.mark.parametrize(
    ("evaluation", "text"),
    [
        ({"trials": 10}, "mean of 10 trials"),
        (
            {"protocol_settings": {"seed": 0, "shots": 1}, "protocol_metrics": ["rank-1"]},
            "protocol market1501 1 (own camera ignored, seed 0, shots 1, its own rank-1)",
        ),
        (
            {
                "denominator": "queries with a match",
                "protocol_metrics": ["a", "b", "c"],
                "protocol_denominators": {"a": "queries with a match", "b": "all queries", "c": "all queries"},
            },
            "protocol market1501 1 (own camera ignored, its own a, its own b, c over all queries)",
        ),
        ({"camera_filter": False, "protocol": "no_camera_filter"}, "protocol no_camera_filter 1 (own camera counts)"),
        ({"metric": "cosine"}, "cosine distance"),
        ({"flip": True}, "flip"),
        ({"valid_queries": 3360}, "Market-1501 15.09.15, 3,360 of 3,368 queries, 15,913 gallery images"),
        ({"reranking": {"method": "mine", "k": 20, "lambda": 0.3}}, "re-ranked only where named (mine, k 20, lambda 0.3)"),
        ({"feature": "pooled", "network": "mean"}, "feature pooled of mean"),
    ],
)
def test_each_condition_has_its_text(evaluation: dict[str, Any], text: str) -> None:
    assert text in changed(**evaluation).values()


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ({"weights": False}, "starts from random weights"),
        ({"weights": True}, "starts from pretrained weights"),
        ({"init": "stage:pretrain"}, "starts from stage pretrain"),
        ({"tested": "epoch_2.pth"}, "weights epoch_2.pth"),
        ({"tested": "as built"}, "starts from osnet.pth"),
    ],
)
def test_sources_of_weights(stage: dict[str, Any], text: str) -> None:
    found = changed(stage)
    assert found["weights"] == text
    assert ("epoch" in found) == ("tested" not in stage)


def test_conditions_of_the_training() -> None:
    assert changed({"bn_group": 64})["BatchNorm group"] == "BatchNorm group 64"
    assert changed({"cameras_in_sampling": True})["cameras"] == "cameras in sampling"
    assert changed({"cameras_in_sampling": False})["cameras"] == "no cameras in sampling"
    tested = changed({"bn_group": 64, "cameras_in_sampling": False, "tested": "epoch_2.pth"})
    assert not tested.keys() & {"BatchNorm group", "cameras"}


def test_differing_conditions_name_their_results() -> None:
    lines = condition_lines({"a": changed(), "b": changed(metric="cosine"), "c": changed()}, "differs by run")
    assert lines[-1] == "differs by run: euclidean distance (a / c); cosine distance (b)"
    assert not any("distance" in line for line in lines[:-1])


def test_many_names_are_all_others() -> None:
    results = {f"run {number}": changed() for number in range(9)} | {"mine": changed(flip=True)}
    assert condition_lines(results, "differs")[-1] == "differs: no flip (all others); flip (mine)"


def test_lines_fit_eighty_columns() -> None:
    results = {f"clusterer.eps=0.{n}, seed {n}": changed({"weights": f"{'x' * 20}{n}"}) for n in range(9)}
    lines = condition_lines(results, "differs by combination")
    assert max(map(len, lines)) <= WIDTH
    assert "xxx8 (clusterer.eps=0.8, seed 8)" in " ".join(line.strip() for line in lines)


@pytest.mark.parametrize(("card", "stage"), [({}, {}), (CARD, {}), (CARD, {"evaluation": {}}), ({}, {"precision": "fp32"})])
def test_no_evaluation_has_no_conditions(card: dict[str, Any], stage: dict[str, Any]) -> None:
    assert conditions_of(card, stage) == {}
    assert condition_lines({"a": {}}, "by stage") == []


def test_missing_conditions_are_not_known() -> None:
    old = {name: text for name, text in changed().items() if name != "flip"}
    assert condition_lines({"a": changed(), "b": old}, "differs")[-1] == "differs: no flip (a); flip not known (b)"


def test_evaluation_without_valid_queries_counts_all() -> None:
    assert conditions_of({}, {"evaluation": {"queries": 3368}}) == {"data": "3,368 queries"}


def table_of(*names: str, **labels: float) -> list[str]:
    stages = [StageResult(name, METRICS, [{**METRICS, **labels, "epoch": 12.0}]) for name in names]
    return Result(Path(), stages, {**CARD, "stages": dict.fromkeys(names, STAGE)}).table().splitlines()


def test_table_fits_eighty_columns_below_its_conditions() -> None:
    lines = table_of("pretrain", "adapt", clusters=700, outliers=12936, ari=0.5)
    assert lines[4:6] == ["", " " * 18 + "    mAP rank-1 rank-5 rank-10   mINP clusters outliers    ARI"]
    assert lines[7] == "pretrain, epoch 12  50.00  75.00  90.00  100.00  25.00      700    12936  0.500"
    assert max(map(len, lines)) <= WIDTH


def test_columns_without_values_are_left_out() -> None:
    assert table_of("direct")[5].split() == ["mAP", "rank-1", "rank-5", "rank-10", "mINP"]


def test_a_run_and_its_test_state_the_same(experiment: Callable[..., Path], tmp_path: Path) -> None:
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 2}]))
    trained = reidx.run(config, tmp_path / "run", progress="quiet").conditions()
    tested = reidx.test(config, tmp_path / "run/1-adapt/epoch_1.pth", progress="quiet").conditions()
    assert trained[0] == "Market-1501 v15.09.15, 18 queries, 57 gallery images"
    assert trained[:3] == tested[:3]
    assert "starts from random weights · last epoch" in trained[3]
    assert "epoch_1.pth" in " ".join(tested[3:])
    assert "last epoch" not in " ".join(tested)


def test_groups_are_stated_once() -> None:
    settings = {"query": None, "gallery": "track", "nearest": True}
    groups = {"gallery": "nearest image of each track"}
    card = {"protocol": "grouped", "protocol_version": "1", "protocol_settings": settings, "groups": groups, "gallery": 2}
    found = conditions_of({}, {"evaluation": card})
    assert found["protocol"] == "protocol grouped 1 (own camera counts, gallery: nearest image of each track)"
    assert found["data"] == "2 gallery groups"
