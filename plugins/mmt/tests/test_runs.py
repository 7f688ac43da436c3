"""Whole runs of the recipes between tiny domains: two different networks, one labelling, and resuming at any stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.config.config import Config
from reidx.engine.step import StageModel
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_resumes

Tiny = Callable[..., Config]

TERMS = ("CrossEntropy", "mmt.SoftCrossEntropy", "Triplet", "mmt.SoftTriplet")


@pytest.mark.parametrize("recipe", ["uda", "dbscan"])
def test_it_trains_both_networks_in_three_stages(tiny: Tiny, tmp_path: Path, recipe: str) -> None:
    dense = ("labels.clusterer.share=0.02", "labels.distance={k1: 8, k2: 2}") if recipe == "dbscan" else ()
    result = reidx.run(tiny(f"mmt::{recipe}.yaml", *dense), tmp_path / "run", progress="quiet")
    assert [(s.name, len(s.history)) for s in result.stages] == [("pretrain", 1), ("pretrain2", 1), ("adapt", 2)]
    for stage in result.stages[:2]:
        assert {"CrossEntropy", "Triplet"} <= stage.last.keys()
        assert 0 < stage.last["mAP"] <= 1
    for report in result.stages[2].history:
        weights = dict(zip(TERMS, (0.5, 0.5, 0.2, 0.8)))
        total = sum(w * report[f"{name}{side}"] for name, w in weights.items() for side in ("", "#2"))
        assert math.isfinite(total)
        assert report["loss"] == pytest.approx(total, rel=1e-4)
        assert report["clusters"] >= 2
    first, second, adapted = (
        checkpoints.load(max(folder.glob("epoch_*.pth")))["state_dict"] for folder in sorted((tmp_path / "run").glob("[123]-*"))
    )
    weight = "networks.{}.fusion.neck.weight"
    # the pre-trainings use different random numbers, and adaptation keeps the networks different
    assert not torch.equal(first[weight.format("student")], second[weight.format("student")])
    four = [adapted[weight.format(name)] for name in ("student", "peer", "mean", "peer_mean")]
    assert all(not torch.equal(a, b) for i, a in enumerate(four) for b in four[:i])


def test_each_network_starts_from_its_pretraining(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: dict[str, torch.Tensor] = {}
    step = StageModel.train_step

    def looking(self: StageModel, *args: Any, **more: Any) -> dict[str, torch.Tensor]:
        if "peer" in self.networks and not begun:
            begun.update({n: net.backbone.model.layer1[0].conv1.weight.clone() for n, net in self.networks.items()})
            rows = {n: memory.weight.clone() for n, memory in self.memories.items()}
            # all four classifiers start from the same centroids, those of both averages' features
            assert len(rows) == 4
            assert all(torch.equal(rows["ids"], other) for other in rows.values())
            assert torch.allclose(rows["ids"].norm(dim=1), torch.ones(len(rows["ids"])), atol=1e-5)
        return step(self, *args, **more)

    monkeypatch.setattr(StageModel, "train_step", looking)
    reidx.run(tiny("mmt::uda.yaml"), tmp_path / "run", progress="quiet")
    kept = [
        checkpoints.load(tmp_path / "run" / f"{n}-{name}" / "epoch_1.pth")["state_dict"]
        for n, name in ((1, "pretrain"), (2, "pretrain2"))
    ]
    first, second = (state["networks.student.backbone.model.layer1.0.conv1.weight"] for state in kept)
    assert not torch.equal(first, second)
    for name, expected in (("student", first), ("mean", first), ("peer", second), ("peer_mean", second)):
        assert torch.equal(begun[name], expected), name


@pytest.mark.parametrize("step", [3, 7], ids=["in the second pre-training", "in the second epoch of adapting"])
def test_interrupted_run_resumes_to_the_same_end(tiny: Tiny, tmp_path: Path, step: int) -> None:
    assert_resumes(tiny("mmt::uda.yaml"), tmp_path, steps=[step])


def test_source_free_run_adapts_given_weights(tiny: Tiny, tmp_path: Path) -> None:
    given = reidx.run(tiny("mmt::source_free.yaml", "epochs=1"), tmp_path / "given", progress="quiet")
    weights = given.work_dir / "1-adapt" / "epoch_1.pth"
    config = tiny("mmt::source_free.yaml", f"init={weights}", "evaluate.before=true")
    result = reidx.run(config, tmp_path / "run", progress="quiet")
    (stage,) = result.stages
    assert len(stage.history) == 2
    assert math.isfinite(stage.last["loss"])
    # its average starts from the given weights, as the student does
    student = reidx.run(
        tiny("mmt::source_free.yaml", f"init={weights}", "evaluate={network: student, before: true}", "epochs=1"),
        tmp_path / "student",
        progress="quiet",
    )
    assert stage.before["mAP"] == student.stages[0].before["mAP"]
