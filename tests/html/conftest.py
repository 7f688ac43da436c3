"""A finished tiny run, measured for the pages of the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import reidx
from reidx.html.measured import Measured, measure
from reidx.html.source import Source
from reidx.reporting.reporter import Reporter
from reidx.runs.stored import read_run
from reidx.testing.tiny import tiny_experiment, write_experiment


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, domains_root: Path) -> Path:
    """Return the folder of a finished run of two epochs, evaluated after each, with monitored labels."""
    folder = tmp_path_factory.mktemp("reported")
    changes = tiny_experiment(domains_root, log=[], stages=[{"name": "adapt", "epochs": 2, "iters": 2}])
    changes["labels"]["monitor"] = True
    changes["evaluate"]["every"] = 1
    config = reidx.load_config(write_experiment(folder / "experiment.yaml", changes))
    reidx.run(config, folder / "runs/one", progress="quiet")
    return folder / "runs/one"


@pytest.fixture(scope="session")
def measured(finished: Path) -> Measured:
    """Return its measurement."""
    return measure(finished, Reporter("quiet"))


@pytest.fixture
def sources(finished: Path, measured: Measured, tmp_path: Path) -> list[Source]:
    """Return the run and a copy of it in a folder whose name needs escaping, with pictures."""
    copy = Path(shutil.copytree(finished, tmp_path / "<b>&'two"))
    return [Source(path.name, read_run(path), measured, pictures=True) for path in (finished, copy)]
