"""Training that can learn nothing is reported: a line in each epoch names the idle term and the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reidx
from reidx.contracts import LabelSet
from reidx.data.domains import Domains
from reidx.engine.idle import idle_by_labels, idle_by_values, rests
from reidx.engine.stage import StageRun
from reidx.errors import DataError
from reidx.labels.clusterers.dbscan import DBSCAN
from reidx.labels.pipeline import LabelPipeline
from reidx.reporting.reporter import Reporter

Experiment = Callable[..., Path]
CLASSES = {"loss": "CrossEntropy", "memory": "rows"}
PAIRS = {"loss": "Triplet"}
PK = {"type": "PK", "identities": 4, "instances": 2}


def stage_run(path: Path) -> StageRun:
    config = reidx.load_config(path)
    return StageRun(config.experiment.stages[0], 0, 1, Domains(config.data["data"]), path.parent, Path, Reporter("quiet"))


def streams(sampler: dict[str, Any]) -> dict[str, Any]:
    return {"target": {"domain": "target", "labels": "main", "sampler": sampler}}


def labelled(labels: list[int], **more: Any) -> dict[str, LabelSet]:
    return {"main": LabelSet(np.array(labels, dtype=np.int64), **more)}


ONE, TWO = [0, 0, 0, -1], [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("term", "sampler", "labels", "why"),
    [
        (CLASSES, PK, labelled(ONE), "3 of 4 images are in one cluster, and there is no other to compare with"),
        (CLASSES, PK, labelled(TWO), None),
        (CLASSES, PK | {"identities": 1}, labelled(TWO), None),  # one cluster learns from the centroids of all
        (CLASSES, PK, labelled([0, 1, 2, 3]), None),
        (CLASSES, PK, labelled(TWO, weights=np.zeros(4, np.float32)), "all weights of main are 0"),
        (CLASSES, PK, labelled(TWO, weights=np.array([0, 0, 0, 1], np.float32)), None),
        (CLASSES, PK, labelled(TWO, soft_targets=np.zeros((4, 2), np.float32)), "all soft targets of main are 0"),
        (CLASSES | {"weight": 0.0}, PK, labelled(TWO), "its weight is 0"),
        (PAIRS, PK, labelled(ONE), "all 3 labelled images of main have one label"),
        (PAIRS, PK | {"identities": 1}, labelled(TWO), "a batch has images of one label, .* Set the sampler's identities"),
        (PAIRS, PK | {"instances": 1}, labelled(TWO), "a batch has one image of each label, .* Set the sampler's instances"),
        (PAIRS, PK, labelled([0, 1, 2, -1]), "no two of 3 labelled images of main share a label"),
        (PAIRS, PK, labelled(TWO), None),
        (CLASSES | {"from_epoch": 1}, PK, labelled(ONE), None),  # not due
    ],
)
def test_labels_reveal_idle_terms(
    experiment: Experiment, term: dict, sampler: dict, labels: dict[str, LabelSet], why: str | None
) -> None:
    run = stage_run(experiment(objective=[term], streams=streams(sampler)))
    found = idle_by_labels(run.stage, run.model.objective.terms, labels, 0)
    if why is None:
        assert found == {}
    else:
        ((name, message),) = found.items()
        assert name == term["loss"]
        assert re.search(why, message), message


class Pairs:
    """Matcher of a test."""

    provides = frozenset({"other_labels"})


class Across(nn.Module):
    """Loss on matches."""

    def forward(self, scores: torch.Tensor, other_labels: torch.Tensor) -> torch.Tensor: ...


def test_matcher_without_a_match_is_reported(experiment: Experiment, register: Callable[[str, type], None]) -> None:
    register("matcher", Pairs)
    register("loss", Across)
    method = {"distance": {"type": "Jaccard", "k1": 8, "k2": 2}, "domain": "target"}
    run = stage_run(
        experiment(
            streams=streams(PK),
            labels={**method, "labellings": {"main": {}, "other": {}}},
            matching=[{"matcher": "Pairs", "labellings": ["main", "other"]}],
            objective=[{"loss": "Across", "memory": "rows"}],
        )
    )
    none, some = (
        idle_by_labels(run.stage, run.model.objective.terms, labelled(TWO, extra={"other_labels": np.array(matches)}), 0)
        for matches in ([-1, -1, -1, -1], [-1, 0, 0, 1])
    )
    assert none["Across"].startswith("all other_labels of main are -1: the matcher found no match") and some == {}
    # the other labelling's turn
    alone, matched = ({"other": LabelSet(np.array(TWO), extra={"other_labels": np.array(of)})} for of in ([-1] * 4, TWO))
    resting = labelled(TWO, extra={"other_labels": np.full(4, -1)})
    (term,), sides = run.model.objective.terms, ((resting | alone, 1), (resting | matched, 0))
    for labels, idle in sides:
        assert len(idle_by_labels(run.stage, [term], labels, 0)) == idle and rests(run.stage, term, labels) != bool(idle)
    assert not rests(run.stage, term, labelled(TWO, extra={"other_labels": np.array(TWO)}) | matched)


def test_columns_of_all_memories_of_a_term_count(experiment: Experiment) -> None:
    """A single cluster is not idle next to the classes of a source."""
    rows = {"memory": "LinearClassifier"}
    run = stage_run(
        experiment(
            streams={**streams(PK), "source": {"domain": "target", "labels": "identity", "sampler": PK}},
            memories={"rows": rows, "people": rows | {"labels": "identity"}},
            objective=[{"loss": "CrossEntropy", "memory": ["people", "rows"], "stream": ["source", "target"]}],
        )
    )
    identity = LabelSet(np.array([0, 1, 2], dtype=np.int64))
    terms = run.model.objective.terms
    assert idle_by_labels(run.stage, terms, {**labelled(ONE), "identity": identity}, 0) == {}


def test_value_of_0_all_epoch_is_reported(experiment: Experiment) -> None:
    run = stage_run(experiment(objective=[CLASSES, PAIRS | {"from_epoch": 1}]))
    terms = run.model.objective.terms
    assert list(idle_by_values(terms, {"loss": 0.0, "CrossEntropy": 0.0}, 7, 0)) == ["CrossEntropy"]
    assert "0 in each of 7 steps" in idle_by_values(terms, {"CrossEntropy": 0.0}, 7, 0)["CrossEntropy"]
    assert idle_by_values(terms, {"CrossEntropy": 1e-9}, 7, 0) == {}
    assert idle_by_values(terms, {"CrossEntropy": 1.0, "Triplet": 0.0}, 7, 0) == {}  # not due


def test_giant_cluster_is_reported_each_epoch(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DBSCAN, "__call__", lambda self, graph: np.zeros(graph.shape[0], np.int64))
    config = reidx.load_config(experiment(objective=[CLASSES, PAIRS]), ["stages.adapt.iters=2"])
    result = reidx.run(config, tmp_path / "run", progress="plain")
    message = capsys.readouterr().err
    for epoch in (1, 2):
        for name in ("CrossEntropy", "Triplet"):
            assert message.count(f"epoch {epoch}: the term {name} trains nothing") == 1
    assert message.count("144 of 144 images are in one cluster") == 2
    rows = [json.loads(line) for line in (tmp_path / "run/1-adapt/log.jsonl").read_text().splitlines()]
    assert [row["idle_terms"] for row in rows] == [2, 2] and [row["loss"] for row in rows] == [0, 0]
    assert result.card["stages"]["adapt"]["epochs_with_idle_terms"] == 2


def test_training_that_learns_is_not_reported(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = reidx.load_config(experiment(objective=[CLASSES, PAIRS]), ["stages.adapt.iters=2", "stages.adapt.epochs=1"])
    result = reidx.run(config, tmp_path / "run", progress="plain")
    assert "nothing can be learnt" not in capsys.readouterr().err
    assert "idle_terms" not in result.stages[0].history[0]
    assert "epochs_with_idle_terms" not in result.card["stages"]["adapt"]


def test_refiner_that_leaves_no_cluster_is_named() -> None:
    class Strict:
        def __call__(self, labels: LabelSet, context: object) -> LabelSet:
            return LabelSet(np.full_like(labels.labels, -1))

    class Pairs:
        clusterer_input = "features"

        def __call__(self, features: torch.Tensor) -> np.ndarray:
            return np.arange(len(features)) // 2

    pipeline = LabelPipeline("embed", None, Pairs(), [Strict()])
    with pytest.raises(DataError, match="Epoch 1: Pairs found 3 clusters, and Strict left none of them: all 6 images"):
        pipeline({"embed": torch.rand(6, 2)}, epoch=0, cameras=np.zeros(6, np.int64))
