"""One experiment on 1, 2 and 4 processes: the same loss curve, labels, weights and metrics, up to rounding."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

import reidx
from reidx import distributed
from reidx.errors import DataError, ReidxError
from reidx.runs import checkpoint as checkpoints

TARGET = {
    "domain": "target",
    "labels": "main",
    "sampler": {"type": "PK", "identities": 4, "instances": 2},
    "transform": {"type": "ReidAugment", "pad": 2},
}
SGD = {"type": "SGD", "lr": 0.01, "momentum": 0.9}
ROWS = {"memory": {"type": "LinearClassifier", "rows": "centroid", "normalize": True, "scale": 10.0}}
CASES: dict[str, dict[str, Any]] = {
    # one group, the whole batch: each process has a part of it; small steps, as below
    "whole batch": {"optimizer": {**SGD, "lr": 0.001}, "model": {"bn_group": None}},
    # with one process two groups, with two one group each, with four half a group each
    "groups of 4": {"model": {"bn_group": 4}},
    # a loss over all pairs of the batch, a memory that is averaged, a mean teacher with its own statistics;
    # small steps, since groups of four and a loss over pairs amplify rounding 10,000 times, in one process too
    "pairs": {
        "optimizer": {**SGD, "lr": 0.001},
        "model": {"bn_group": 4},
        "memories": {"bank": {"memory": "cluster_contrast.ClusterMemory"}},
        "teachers": {"mean": {"type": "EMA", "momentum": 0.5}},
        "objective": [
            {"loss": {"type": "MemoryContrast", "temperature": 0.5}, "memory": "bank"},
            {"loss": {"type": "Triplet", "margin": 0.3}, "weight": 0.5},
        ],
        "evaluate": {"domain": "target", "network": "mean"},
    },
    # each process passes its share of the batch through the network in two parts of one group each
    "parts": {
        "grad_cache_chunks": 2,
        "model": {"bn_group": 4},
        "streams": {"target": {**TARGET, "sampler": {"type": "PK", "identities": 8, "instances": 4}}},
        "objective": [
            {"loss": "CrossEntropy", "memory": "rows"},
            {"loss": {"type": "Triplet", "margin": 0.3}, "weight": 0.5},
        ],
    },
    # an optimiser of timm, a warm-up by step
    "warm-up": {
        "optimizer": {"type": "timm.SGDW", "lr": 0.01, "momentum": 0.9},
        "schedule": [{"type": "LinearLR", "start_factor": 0.1, "end": 3, "by_epoch": False}],
        "model": {"bn_group": None},
    },
    # two streams in one pass: each group has its share of both
    "joint": {
        "model": {"bn_group": 8},
        "joint": True,
        "streams": {
            "target": TARGET,
            "other": {"domain": "target", "sampler": {"type": "Shuffle", "batch": 8}},
        },
        "objective": [{"loss": "CrossEntropy", "memory": "rows", "stream": "target"}],
    },
    # a view, a BatchNorm per domain, two groups per pass and process: passes end one after the other
    "views": {
        "optimizer": {**SGD, "lr": 0.001},
        "model": {"bn_group": 4, "domain_bn": True},
        "streams": {
            "target": {
                **TARGET,
                "sampler": {"type": "PK", "identities": 4, "instances": 4},
                "views": {"again": {"type": "ReidAugment", "pad": 2}},
            },
        },
        "memories": {"rows": ROWS, "bank": {"memory": "cluster_contrast.ClusterMemory", "when": "before"}},
        "objective": [
            {"loss": "CrossEntropy", "stream": ["target", "again"], "memory": "rows"},
            {"loss": {"type": "MemoryContrast", "temperature": 0.5}, "stream": "again", "memory": "bank"},
        ],
    },
}


def work(rank: int, world: int, meet: str, path: str, folder: str) -> None:
    torch.set_num_threads(1)  # a forked process must not use the thread pool of its parent
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    reidx.run(reidx.load_config(path), folder, progress="quiet")
    dist.destroy_process_group()


def run(world: int, path: Path, folder: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Run on ``world`` processes and return the history and the last checkpoint."""
    if world == 1:
        reidx.run(reidx.load_config(path), folder, progress="quiet")
    else:
        arguments = (world, str(folder.with_suffix(".meet")), str(path), str(folder))
        multiprocessing.start_processes(work, arguments, nprocs=world, start_method="fork")
    history = json.loads((folder / "1-adapt" / "done.json").read_text())["history"]
    return history, checkpoints.load(folder / "1-adapt" / "epoch_2.pth")


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_on_several_processes(case: str, experiment: Callable[..., Path], tmp_path: Path) -> None:
    changes = dict(CASES[case])
    model = {
        "backbone": {"type": "Timm", "name": "test_resnet"},
        "fusion": {"type": "GlobalPool", "pool": "avg"},
        **changes.pop("model"),
    }
    path = experiment(model=model, **{"optimizer": SGD, **changes})
    history, state = run(1, path, tmp_path / "1")
    assert history[0]["loss"] != history[1]["loss"]
    for world in (2, 4):
        others, other_state = run(world, path, tmp_path / str(world))
        for mine, theirs in zip(history, others, strict=True):
            metrics = {k for k in mine if k.startswith(("rank-", "mAP", "mINP"))}  # rounding can change one of the 18 queries
            assert {k: theirs[k] for k in metrics} == pytest.approx({k: mine[k] for k in metrics}, abs=1 / 18 + 1e-9)
            curves = {k for k in mine if not k.startswith("seconds")} - metrics
            assert {"loss", "clusters", "outliers", "largest"} <= curves
            assert {k: theirs[k] for k in curves} == pytest.approx({k: mine[k] for k in curves}, rel=2e-3, abs=1e-4)
        weights, other_weights = state["state_dict"], other_state["state_dict"]
        assert weights.keys() == other_weights.keys()
        for name, value in weights.items():
            close = torch.allclose(value.double(), other_weights[name].double(), rtol=1e-2, atol=2e-4)
            assert close, f"{name} differs by {(value.double() - other_weights[name].double()).abs().max()}"
        labels = other_state["reidx"]["labels"]["main"]["labels"]
        assert torch.equal(labels, state["reidx"]["labels"]["main"]["labels"])
        assert other_state["reidx"]["world_size"] == world


class TwoWords(Exception):
    """Error that cannot be unpickled, as its message is not enough to build it."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def test_error_that_cannot_be_pickled_is_converted() -> None:
    known = DataError("no images")
    assert distributed.portable(known) is known
    holding = ValueError("a lock is in it", threading.Lock())
    for error, message in ((TwoWords("not", "found"), "TwoWords: not found"), (holding, "ValueError: ('a lock")):
        sent = pickle.loads(pickle.dumps(distributed.portable(error)))
        assert isinstance(sent, ReidxError) and str(sent).startswith(f"process 0: {message}")


def go_wrong(rank: int, world: int, meet: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)

    def wrong() -> None:
        raise TwoWords("not", "found")

    try:
        distributed.on_rank_zero(wrong)
    except Exception as error:
        Path(folder, f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


def test_all_processes_raise_the_converted_error(tmp_path: Path) -> None:
    arguments = (2, str(tmp_path / "meet"), str(tmp_path))
    multiprocessing.start_processes(go_wrong, arguments, nprocs=2, start_method="fork")
    assert (tmp_path / "0.txt").read_text() == "TwoWords: not found"
    assert (tmp_path / "1.txt").read_text() == "ReidxError: process 0: TwoWords: not found"
