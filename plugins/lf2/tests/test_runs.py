"""Whole runs of both stages: their checkpoints and logs, resuming, and the training of each variant."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import reidx
from reidx.config.config import Config
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_resumes

Tiny = Callable[..., Config]

FROZEN = "gates are frozen"
VARIANTS = [
    "direct", "baseline", "uda", "uda without_fm", "uda const_gate", "uda part_head", "uda fusion_triplet", "uda mul_then_gate",
    "uda paper", "uda shared", "source_free", "source_free shared",
]  # fmt: skip
ONE_STEP = ["epochs=1", "iters=1"]


@pytest.fixture(scope="session")
def whole(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """Both stages of LF2, run without interruption: the config and the folder, which tests must not change."""
    config, folder = tiny("uda"), tmp_path_factory.mktemp("whole") / "run"
    reidx.run(config, folder, progress="quiet")
    return config, folder


def networks(folder: Path, epoch: int, network: str) -> dict[str, torch.Tensor]:
    state = checkpoints.load(folder / f"2-adapt/epoch_{epoch}.pth")["state_dict"]
    return checkpoints.strip_prefix(state, f"networks.{network}.")


def test_both_stages_end_to_end(whole: tuple[Config, Path]) -> None:
    _, folder = whole
    first, last = (networks(folder, epoch, "student") for epoch in (1, 2))
    gates = [name for name in last if name.startswith("fusion.gates.")]
    assert len(gates) == 4
    for name in gates:  # frozen from the first epoch to the last, also in the average
        assert torch.equal(first[name], last[name])
        assert torch.equal(last[name], networks(folder, 2, "mean")[name])
    assert not torch.equal(first["fusion.experts.upper.weight"], last["fusion.experts.upper.weight"])
    # three passes per step, each updates the statistics of the fused features; 2 epochs of 3 steps
    assert int(last["fusion.fused_norms.phi1.num_batches_tracked"]) == 18
    kept = checkpoints.load(folder / "2-adapt/epoch_2.pth")["reidx"]
    labels = {name: sets["labels"] for name, sets in kept["labels"].items()}
    assert set(labels) == {"g", "u", "l"}
    assert all(len(found) == 144 for found in labels.values())
    assert len({tuple(found.tolist()) for found in labels.values()}) == 3  # each level has its own clusters
    rows = kept["memories"]["classifier"]["weight"]
    assert len(rows) == int(labels["g"].max()) + 1


def test_interrupted_run_resumes_to_the_same_end(whole: tuple[Config, Path], tmp_path: Path) -> None:
    config, folder = whole
    assert_resumes(config, tmp_path, steps=[11], whole=folder)  # in the second epoch of the second stage


@pytest.mark.parametrize("names", VARIANTS)
def test_each_config_trains(names: str, tiny: Tiny, tmp_path: Path) -> None:
    overrides = ONE_STEP if "direct" not in names else []
    if "source_free" not in names:
        overrides = [*overrides, "stages.pretrain.epochs=1", "stages.pretrain.iters=1"]
    result = reidx.run(tiny(names, *overrides), tmp_path / "run", progress="quiet")
    for stage in result.stages:
        assert len(stage.history) == 1
        assert math.isfinite(stage.last["loss"])
        assert stage.last["loss"] > 0
        assert 0 < stage.last["mAP"] <= 1


def test_log_reports_frozen_gates_once(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reidx.run(tiny("source_free", "iters=1"), tmp_path / "frozen", progress="plain")
    assert capsys.readouterr().err.count(FROZEN) == 1  # two epochs, two networks
    reidx.run(tiny("source_free part_head", *ONE_STEP), tmp_path / "trained", progress="plain")
    assert FROZEN not in capsys.readouterr().err
