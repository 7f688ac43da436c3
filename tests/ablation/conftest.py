"""Grids on a tiny domain and fake finished runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from reidx.ablation.grid import read_grid
from reidx.ablation.plan import Plan, Run, plan_of
from reidx.testing.tiny import tiny_experiment

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path, domains_root: Path) -> Written:
    """Return a function that writes the tiny experiment with ``changes`` and a section ``ablate``, and returns the file."""

    def write(changes: dict[str, Any] | None = None, **section: Any) -> Path:
        grid = {**tiny_experiment(domains_root, log=[], **(changes or {})), "ablate": section}
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(grid, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def planned(written: Written, tmp_path: Path) -> Callable[..., Plan]:
    """Return a function that plans such a grid."""
    return lambda *args, **section: plan_of(read_grid(written(*args, **section)), tmp_path / "home")


@pytest.fixture
def finish() -> Callable[..., None]:
    """Return a function that writes the files of a finished run with these metrics, without training."""

    def finish(run: Run, provenance: dict[str, Any] | None = None, **metrics: float) -> None:
        stages = run.config.experiment.stages
        folder = run.folder / f"{len(stages)}-{stages[-1].name}"
        folder.mkdir(parents=True)
        history = [{"epoch": 1, "loss": 0.5, "clusters": 7, **metrics}]
        (folder / "done.json").write_text(json.dumps({"before": {}, "history": history, "card": {}}))
        card = {"config_hash": run.hash, "seconds": 60.0, "versions": {"torch": "2"}}
        (run.folder / "result.json").write_text(json.dumps({"metrics": metrics, "card": card}))
        (run.folder / "experiment.json").write_text(json.dumps({"hash": run.hash, "provenance": provenance or {}}))
        (run.folder / "config.yaml").write_text(run.config.render())

    return finish


@pytest.fixture
def evaluated() -> Callable[..., None]:
    """Adds the card of an evaluation to a run that is done; gives conditions that differ from the usual ones."""

    def evaluated(run: Run, **conditions: Any) -> None:
        path = run.folder / "result.json"
        result = json.loads(path.read_text())
        evaluation = {"protocol": "market1501", "camera_filter": True, "metric": "euclidean", "flip": False, **conditions}
        stage = run.config.experiment.stages[-1].name
        result["card"]["stages"] = {stage: {"selection": "last epoch", "precision": "fp32", "evaluation": evaluation}}
        path.write_text(json.dumps(result))

    return evaluated
