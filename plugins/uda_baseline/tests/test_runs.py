"""Whole runs of both baselines between tiny domains: classifier rows across relabellings, and resuming at any stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import reidx
from reidx.config.config import Config
from reidx.engine.step import StageModel
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_resumes

Tiny = Callable[..., Config]


@pytest.mark.parametrize(("recipe", "stages"), [("uda", ["pretrain", "adapt"]), ("joint", ["adapt"])])
def test_it_trains(tiny: Tiny, tmp_path: Path, recipe: str, stages: list[str]) -> None:
    result = reidx.run(tiny(f"uda_baseline::{recipe}.yaml"), tmp_path / "run", progress="quiet")
    assert [stage.name for stage in result.stages] == stages
    for report in [report for stage in result.stages for report in stage.history]:
        total = report["CrossEntropy"] + report["Triplet"]
        assert math.isfinite(total)
        assert report["loss"] == pytest.approx(total, rel=1e-4)
    state = checkpoints.load(tmp_path / "run" / f"{len(stages)}-adapt" / "epoch_3.pth")["state_dict"]
    # each domain has its own BatchNorm statistics, also in the non-local blocks and in the neck
    for place in ("backbone.model.layer3.non_local0.norm", "fusion.neck"):
        own = [state[f"networks.student.{place}.of.{domain}.running_mean"] for domain in ("source", "target")]
        assert not torch.equal(*own)
    assert (state["networks.student.fusion.neck.of.target.bias"] == 0).all()


def test_relabelling_redraws_only_cluster_rows(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Tensor]] = []
    step = StageModel.train_step

    def looking(self: StageModel, *args: Any, **more: Any) -> dict[str, Tensor]:
        begun.append({name: memory.weight.detach().clone() for name, memory in self.memories.items()})
        return step(self, *args, **more)

    monkeypatch.setattr(StageModel, "train_step", looking)
    reidx.run(tiny("uda_baseline::uda.yaml"), tmp_path / "run", progress="quiet")
    pretrain, adapt = begun[:2], begun[2:]  # two steps an epoch: labelled before the first and the third epoch
    assert [set(rows) for rows in (pretrain[0], adapt[0])] == [{"identities"}, {"identities", "clusters"}]
    assert adapt[0]["identities"].shape == pretrain[1]["identities"].shape

    def kept(name: str) -> list[bool]:
        """For each step, check that the rows differ from the previous ones by no more than the learning rate."""
        pairs = [(before[name], after[name]) for before, after in itertools.pairwise(adapt)]
        return [a.shape == b.shape and bool((a - b).abs().max() < 4e-4) for a, b in pairs]

    assert kept("clusters") == [True, True, True, False, True]
    assert kept("identities") == [True] * 5
    for rows in (adapt[0]["identities"], adapt[0]["clusters"], adapt[4]["clusters"]):
        bound = rows.shape[1] ** -0.5
        assert rows.abs().max() <= bound
        assert rows.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(
    ("recipe", "step"),
    [("uda", 2), ("uda", 5), ("joint", 5)],
    ids=["in the pre-training", "between two labellings", "without a pre-training"],
)
def test_interrupted_run_resumes_to_the_same_end(tiny: Tiny, tmp_path: Path, recipe: str, step: int) -> None:
    assert_resumes(tiny(f"uda_baseline::{recipe}.yaml"), tmp_path, steps=[step])
