"""Runs under a protocol with trials and metrics: the same numbers in every file and table, on any number of processes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

import reidx
from reidx.ablation.comparison import compare
from reidx.contracts import Trial
from reidx.engine import experiment as experiments
from reidx.engine import stage as engine_stage
from reidx.errors import ConfigError, DataError
from reidx.evaluation import Evaluation, SingleGalleryShot
from reidx.runs.metrics import metrics_in

NAMES = ["mAP", "rank-1", "rank-5", "rank-10", "mINP", "rank-2"]


class Shots(SingleGalleryShot):
    """Single shot with a metric of another name, and one that replaces rank-1."""

    metrics = ("rank-1", "rank-2")

    def measure(self, distances, ignored, query_ids, gallery_ids, query_cams, gallery_cams):
        order = np.argsort(np.where(ignored, np.inf, distances), axis=1, kind="stable")
        right = np.take_along_axis((gallery_ids == query_ids[:, None]) & ~ignored, order, axis=1)
        found, first = right.any(axis=1), right.argmax(axis=1)
        return {"rank-1": np.where(found, first >= 1, np.nan), "rank-2": np.where(found, first < 2, np.nan)}


EVALUATE = {
    "domain": "target", "before": True, "rerank": {"k1": 6, "k2": 3}, "protocol": {"type": "Shots", "trials": 4, "seed": 3}
}  # fmt: skip
STAGE = [{"name": "adapt", "epochs": 1, "iters": 1}]


@pytest.fixture
def kept(register: Callable[[str, type], None], monkeypatch: pytest.MonkeyPatch) -> list[Evaluation]:
    """Register the protocol, and return a list that receives each evaluation."""
    register("protocol", Shots)
    found: list[Evaluation] = []
    original = engine_stage.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> Evaluation:
        found.append(original(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(engine_stage, "evaluate", evaluate)
    return found


def test_means_and_deviations_are_everywhere(kept, experiment: Callable[..., Path], tmp_path: Path, capsys) -> None:
    config = reidx.load_config(experiment(evaluate=EVALUATE, stages=STAGE))
    result = reidx.run(config, tmp_path / "run", progress="plain")
    plain, reranked = kept[-2:]
    for evaluation, metrics in ((plain, result.metrics), (reranked, result.reranked)):
        assert list(metrics) == [key for name in NAMES for key in (name, f"{name}_sd")]
        values = {name: [trial.metrics[name] for trial in evaluation.trials] for name in NAMES}
        assert len(values["mAP"]) == 4
        assert [metrics[name] for name in NAMES] == [fmean(values[name]) for name in NAMES]
        assert [metrics[f"{name}_sd"] for name in NAMES] == [stdev(values[name]) for name in NAMES]
    assert plain.metrics["rank-1"] == pytest.approx(1 - plain.cmc[0]), "the protocol's number replaces the standard one"
    assert plain.metrics["rank-2"] == pytest.approx(plain.cmc[1]) and result.metrics != result.reranked

    written = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    assert written["metrics"] == result.metrics and written["reranked"] == result.reranked
    entry = json.loads((tmp_path / "run/1-adapt/log.jsonl").read_text(encoding="utf-8"))
    assert {"mAP_sd", "metric_rank-2", "metric_rank-2_sd", "reranked_metric_rank-2"} < entry.keys()
    assert metrics_in(entry) == result.metrics and metrics_in(entry, reranked=True) == result.reranked
    card = result.card["stages"]["adapt"]["evaluation"]
    assert card["protocol_settings"] == {"seed": 3, "rest": False}
    assert (card["trials"], card["protocol_metrics"]) == (4, ["rank-1", "rank-2"])
    assert card["protocol"] == "single_gallery_shot" and card["gallery"] == 7 and card["reranking"]["k1"] == 6
    both = f"mAP {100 * result.metrics['mAP']:.2f} ± {100 * result.metrics['mAP_sd']:.2f}"
    assert both in capsys.readouterr().err

    conditions, _, table = result.table().partition("\n\n")
    assert "single_gallery_shot 1 (own camera ignored, seed 3, its own rank-1, rank-2)" in " ".join(conditions.split())
    assert "mean of 4 trials" in conditions
    head, *rows = table.splitlines()
    assert head.split()[:6] == NAMES and len(rows) == 8 and max(map(len, rows)) <= 80
    states = ["before adapt", "s.d. of trials", "re-ranked", "s.d. of trials", "adapt, epoch 1", "s.d. of trials"]
    assert [row[:16].strip() for row in rows[:6]] == states
    assert rows[5].split()[3:] == [f"±{100 * result.metrics[f'{name}_sd']:.2f}" for name in NAMES]

    weights = tmp_path / "run/1-adapt/epoch_1.pth"
    tested = experiments.test(config, weights, progress="quiet")
    assert tested.metrics == result.metrics and tested.reranked == result.reranked
    assert "s.d. of trials" in tested.table() and "mean of 4 trials" in tested.table()
    reidx.run(config, tmp_path / "again", progress="quiet")
    rows = {row[:2]: row[2:] for row in compare([tmp_path / "run", tmp_path / "again"]).metrics}
    assert rows["adapt, last epoch", "mAP"] == (both[4:], f"{both[4:]} (+0.00)")
    assert {"rank-2", "reranked_mAP", "reranked_rank-2", "clusters"} <= {name for _, name in rows}


def work(rank: int, world: int, meet: str, path: str, folder: str) -> None:
    torch.set_num_threads(1)  # a forked process must not use the thread pool of its parent
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    trials: list[Any] = []
    original = Shots.draw_trials

    def draw_trials(self, query_ids, gallery_ids, query_cams, gallery_cams):
        random.seed(rank)
        np.random.seed(rank)
        for trial in original(self, query_ids, gallery_ids, query_cams, gallery_cams):
            trials.append([positions.tolist() for positions in trial])
            yield Trial(*trial)

    Shots.draw_trials = draw_trials  # type: ignore[method-assign]
    result = reidx.run(reidx.load_config(path), folder, progress="quiet")
    Path(f"{folder}-{rank}.json").write_text(json.dumps([trials, result.metrics]))
    dist.destroy_process_group()


def test_trials_are_the_same_on_two_processes(register, experiment: Callable[..., Path], tmp_path: Path) -> None:
    register("protocol", Shots)
    path = experiment(evaluate=EVALUATE, stages=STAGE)
    for world in (1, 2):
        arguments = (world, str(tmp_path / f"meet-{world}"), str(path), str(tmp_path / str(world)))
        multiprocessing.start_processes(work, arguments, nprocs=world, start_method="fork")
    alone, *both = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert len(alone[0]) % 4 == 0 and all(trials == alone[0] for trials, _ in both)
    assert both[0][1] == both[1][1]
    assert all(metrics == pytest.approx(alone[1], abs=1 / 18 + 1e-9) for _, metrics in both)


class Blind(Shots):
    """Protocol whose second trial has no match, or positions beyond the gallery."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def draw_trials(self, query_ids, gallery_ids, query_cams, gallery_cams):
        yield np.arange(len(query_ids)), np.arange(len(gallery_ids))
        other = np.flatnonzero(gallery_ids != query_ids[0])
        yield np.flatnonzero(query_ids == query_ids[0]), other if self.fault == "match" else other + len(gallery_ids)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("match", DataError, r"evaluate: domain 'target': evaluate: no query has a match.* This is trial 2 of 2\."),
        ("positions", RuntimeError, "Blind .*contract in draw_trials: the gallery positions of trial 2 are int64 .*, from "),
    ],
)
def test_wrong_trials_are_refused_before_training(register, experiment, tmp_path, fault, error, message) -> None:
    register("protocol", Blind)
    path = experiment(evaluate={"domain": "target", "protocol": {"type": "Blind", "fault": fault}}, stages=STAGE)
    with pytest.raises(error, match=message):
        reidx.run(reidx.load_config(path), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run/1-adapt").exists()


def test_memory_to_rerank_is_that_of_a_trial(register, experiment, tmp_path, monkeypatch) -> None:
    register("protocol", Shots)
    monkeypatch.setattr("reidx.checks.data.free_memory", lambda: 1.0)
    with pytest.raises(ConfigError, match="18 queries and 7 gallery images"):
        reidx.run(reidx.load_config(experiment(evaluate=EVALUATE, stages=STAGE)), tmp_path / "run", progress="quiet")


def test_wrong_metrics_are_refused_before_training(register, experiment, tmp_path) -> None:
    class Percent(Shots):
        def measure(self, distances, *given):
            return {name: 100 * values for name, values in super().measure(distances, *given).items()}

    register("protocol", Percent)
    path = experiment(evaluate={"domain": "target", "protocol": "Percent"}, stages=STAGE)
    with pytest.raises(RuntimeError, match=r"Percent .*contract in measure: its rank-1 reaches from .* to 100.0"):
        reidx.run(reidx.load_config(path), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run/1-adapt").exists()
