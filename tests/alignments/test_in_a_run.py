"""The core's alignments in an experiment: two domains of one data set, an interrupted run, and the domain probe."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import reidx
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_same_run
from reidx.testing.tiny import tiny_domain

EPOCHS, ITERS = 2, 3


def test_all_three_with_a_task_resume_exactly(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path
) -> None:
    sides = {
        side: {"type": "CameraSplit", "of": tiny_domain(domains_root), "side": side, "cameras": cameras}
        for side, cameras in (("source", [1]), ("target", [2, 3]))
    }
    batch = {"type": "PK", "identities": 4, "instances": 2}
    path = experiment(
        data={"image_size": [48, 24], "domains": sides},
        streams={
            "source": {"domain": "source", "labels": "identity", "sampler": batch},
            "target": {"domain": "target", "sampler": {"type": "Shuffle", "batch": 6}},
        },
        labels=None,
        memories={"ids": {"memory": "LinearClassifier", "labels": "identity"}},
        objective=[{"loss": "CrossEntropy", "stream": "source", "memory": "ids"}],
        alignment=[
            {"alignment": "MMD", "weight": 0.1},
            {"alignment": {"type": "CORAL", "feature": "pooled"}},
            {"alignment": {"type": "GradientReversal", "hidden": 8}, "weight": 0.1},
        ],
        evaluate={"domain": "target", "domain_probe": "embed", "every": 1},
        stages=[{"name": "align", "epochs": EPOCHS, "iters": ITERS}],
    )
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    config = reidx.load_config(path)
    history = reidx.run(config, whole, progress="quiet").stages[0].history
    for entry in history:
        assert entry["MMD"] > 0.0
        assert entry["CORAL"] >= 0.0
        assert entry["GradientReversal"] > 0.0
        assert 0.0 <= entry["domain_probe"] <= 1.0
    state = checkpoints.load(whole / "1-align" / f"epoch_{EPOCHS}.pth")["state_dict"]
    (steps,) = (value.item() for key, value in state.items() if key.endswith("alignment.step"))
    assert steps == EPOCHS * ITERS

    shutil.copytree(whole, torn)  # as if the run had been killed in the second epoch
    for late in (f"epoch_{EPOCHS}.pth", "done.json"):
        (torn / "1-align" / late).unlink()
    (torn / "result.json").unlink()
    reidx.run(config, torn, resume=True, progress="quiet")
    assert_same_run(torn, whole)
