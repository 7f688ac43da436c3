"""Runs with `evaluate.rerank`: both metrics in log, table, result and card, equal to the paper's, also when resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reidx
from reidx.data.domains import Domains
from reidx.engine import experiment as experiments
from reidx.engine import stage as engine_stage
from reidx.errors import ConfigError
from reidx.runs.result import METRICS
from reidx.testing.runs import assert_same_run, interrupted

Experiment = Callable[..., Path]

K1, K2, WEIGHT = 6, 3, 0.4
EVALUATE = {"domain": "target", "every": 1, "rerank": {"k1": K1, "k2": K2, "lambda_": WEIGHT}}
CARD = {"method": "k-reciprocal", "k1": K1, "k2": K2, "lambda": WEIGHT}


def reranked_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return the distances (Q, G) of Zhong et al., CVPR 2017, computed with boolean matrices."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    squared = ((x[:, None] - x) ** 2).sum(axis=2)
    normal = squared / squared.max(axis=1, keepdims=True)
    order = np.argsort(squared - 1e9 * np.eye(len(x)), axis=1, kind="stable")

    def mutual(width: int) -> np.ndarray:
        near = np.zeros(squared.shape, bool)
        np.put_along_axis(near, order[:, : width + 1], True, axis=1)
        return near & near.T

    own, half = mutual(K1), mutual(round(K1 / 2))
    common = own.astype(int) @ half.T.astype(int)
    added = own & (common > 2 / 3 * half.sum(axis=1))  # (i, c): the half list of c is added to the list of i
    members = own | ((added.astype(int) @ half.astype(int)) > 0)
    weights = np.exp(-normal) * members
    weights /= weights.sum(axis=1, keepdims=True)
    weights = np.stack([weights[order[i, :K2]].mean(axis=0) for i in range(len(x))])
    shared = np.minimum(weights[: len(query), None], weights[None, len(query) :]).sum(axis=2)
    return (1 - WEIGHT) * (1 - shared / (2 - shared)) + WEIGHT * normal[: len(query), len(query) :]


def naive_metrics(distances: np.ndarray, query: Any, gallery: Any) -> dict[str, float]:
    """Return mAP, mINP and rank-k by a sorted list per query, without junk and without the query's own camera."""
    precisions, penalties, firsts = [], [], []
    for row, who, camera in zip(distances, query.ids, query.cameras):
        kept = (gallery.ids != -1) & ~((gallery.ids == who) & (gallery.cameras == camera))
        right = gallery.ids[kept][np.argsort(row[kept], kind="stable")] == who
        ranks = np.flatnonzero(right) + 1
        if len(ranks):
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
            penalties.append(len(ranks) / ranks[-1])
            firsts.append(ranks[0])
    ranked = {f"rank-{k}": float(np.mean(np.array(firsts) <= k)) for k in (1, 5, 10)}
    return {"mAP": float(np.mean(precisions)), "mINP": float(np.mean(penalties)), **ranked}


def test_run_and_test_report_both_metrics(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    original = engine_stage.rerank

    def rerank(*arguments: Any, **named: Any) -> Any:
        given[:] = [features.numpy() for features in arguments[1:3]]
        return original(*arguments, **named)

    monkeypatch.setattr(engine_stage, "rerank", rerank)
    plain = reidx.run(reidx.load_config(experiment()), tmp_path / "plain", progress="quiet")
    assert not given
    assert not plain.reranked
    assert len(plain.rows()) == 1
    assert plain.card["stages"]["adapt"]["evaluation"]["reranking"] is None

    config = reidx.load_config(experiment(evaluate=EVALUATE))
    result = reidx.run(config, tmp_path / "run", progress="quiet")
    domain = Domains(config.data["data"])["target"]
    expected = naive_metrics(reranked_distances(*given), domain.query, domain.gallery)
    assert result.reranked == pytest.approx(expected, abs=1e-9)
    assert result.metrics == plain.metrics != result.reranked, "the metrics are not re-ranked"

    conditions, _, table = result.table().partition("\n\n")
    assert f"re-ranked only where named (k-reciprocal, k1 {K1}, k2 {K2}, lambda {WEIGHT})" in conditions
    assert "no re-ranking" in plain.table()
    lines = table.splitlines()
    assert [line[:14].strip() for line in lines[1:]] == ["adapt, epoch 2", "re-ranked"]
    assert f"{100 * expected['mAP']:.2f}" in lines[2] and f" {100 * plain.metrics['mAP']:.2f}" in lines[1]
    written = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    assert written["metrics"] == result.metrics and written["reranked"] == result.reranked
    assert written["card"]["stages"]["adapt"]["evaluation"]["reranking"] == CARD
    log = [json.loads(line) for line in (tmp_path / "run/1-adapt/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(log) == 2 and {f"reranked_{name}" for name in METRICS} <= log[0].keys()
    assert log[1]["reranked_mAP"] == result.reranked["mAP"] and log[1]["mAP"] == result.metrics["mAP"]

    weights = tmp_path / "run/1-adapt/epoch_2.pth"
    again = experiments.test(config, weights, progress="quiet", rerank=True)
    assert again.reranked == result.reranked and [name for name, _ in again.rows()] == ["adapt", "  re-ranked"]
    unset = reidx.load_config(experiment())
    paper = experiments.test(unset, weights, progress="quiet", rerank=True)
    assert paper.metrics == result.metrics and paper.reranked != result.reranked
    assert paper.card["stages"]["adapt"]["evaluation"]["reranking"] == {**CARD, "k1": 20, "k2": 6, "lambda": 0.3}
    assert unset.experiment.stages[0].evaluate.rerank is None


def test_a_reranked_run_resumes_bit_for_bit(experiment: Experiment, tmp_path: Path) -> None:
    config = reidx.load_config(experiment(evaluate=EVALUATE))
    whole = reidx.run(config, tmp_path / "whole", progress="quiet")
    with interrupted(5):
        reidx.run(config, tmp_path / "stopped", progress="quiet")
    resumed = reidx.run(config, tmp_path / "stopped", resume=True, progress="quiet")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    assert resumed.reranked == whole.reranked


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"domain": "target", "rerank": {"k1": 4, "k2": 6}}, r":\d+: stages\.0\.evaluate\.rerank\): .* 1 <= k2 <= k1 \+ 1"),
        ({"domain": "target", "rerank": {"lambda_": 1.5}}, r"evaluate\.rerank\): .* and 0 <= lambda_ <= 1"),
        ({"domain": "target", "rerank": {"lambda": 0.5}}, r"evaluate\.rerank\): unknown key 'lambda'.* Did you mean lambda_\?"),
        ({"domain": "target", "rerank": True}, r"evaluate\.rerank is .*; a reranker is written as a name or as \{type: name"),
        ({"domain": "target", "rerank": "KReciproca"}, r"no reranker called 'KReciproca'. Did you mean KReciprocal\?"),
        ({"rerank": {}}, r"evaluate\.rerank: it is part of an evaluation"),
    ],
)
def test_wrong_rerank_settings_are_refused(experiment: Experiment, evaluate: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reidx.load_config(experiment(evaluate=evaluate))


def test_settings_default_to_the_papers(experiment: Experiment) -> None:
    def settings(*overrides: str, **evaluate: object) -> dict[str, Any] | None:
        config = reidx.load_config(experiment(evaluate={"domain": "target", **evaluate}), overrides)
        return config.data["stages"][0]["evaluate"]["rerank"]

    assert settings() is None
    paper = {"type": "KReciprocal", "k1": 20, "k2": 6, "lambda_": 0.3}
    assert settings(rerank={}) == settings(rerank="KReciprocal") == settings("evaluate.rerank=KReciprocal") == paper
    assert settings("evaluate.rerank.lambda_=0.5") == settings(rerank={"lambda_": 0.5}) == {**paper, "lambda_": 0.5}
    assert settings("evaluate.rerank=null", rerank={"k1": 9}) is None
    config = reidx.load_config(experiment(evaluate={"domain": "target", "rerank": {}}))
    assert "rerank: type: KReciprocal" in " ".join(config.render(origins=False, changed=True).split())


def test_too_little_memory_is_refused_before_training(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidx.checks.data.free_memory", lambda: 1e4)
    reidx.load_config(experiment())
    with pytest.raises(ConfigError, match=r"\d+ gallery images \(KReciprocal, k1 6, k2 3, lambda_ 0.4\) may take 0"):
        reidx.run(reidx.load_config(experiment(evaluate=EVALUATE)), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run/1-adapt").exists()
