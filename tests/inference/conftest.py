"""A finished run on a tiny domain, whose network and images the tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

import reidx
from reidx.testing.tiny import load_experiment, tiny_experiment

STAGES = [{"name": "warm", "epochs": 1, "iters": 1}, {"name": "adapt", "epochs": 2, "iters": 2, "init": "stage:warm"}]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, domains_root: Path) -> Path:
    """Return the folder of a run that evaluates an average of the weights, under the metric cosine."""
    folder = tmp_path_factory.mktemp("finished")
    tested = {"domain": "target", "network": "mean", "metric": "cosine"}
    experiment = tiny_experiment(domains_root, stages=STAGES, teachers={"mean": {"type": "EMA"}}, evaluate=tested)
    reidx.run(load_experiment(folder, experiment), folder / "run", progress="quiet")
    return folder / "run"
