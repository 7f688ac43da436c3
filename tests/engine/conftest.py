"""An uninterrupted run, and a way to break other runs at chosen moments."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.testing.tiny import tiny_experiment, write_experiment

STAGES = [
    {"name": "warm", "epochs": 1, "iters": 2},
    {"name": "adapt", "epochs": 2, "iters": 3, "init": "stage:warm"},
]

# a function and the number of its call: all but the last fall into the second epoch of the second stage
MOMENTS = {
    "extraction": ("reidx.engine.relabel:extract", 5),
    "clustering": ("reidx.labels.clusterers.dbscan:DBSCAN.__call__", 3),
    "step": ("reidx.engine.step:StageModel.after_step", 7),
    "last step": ("reidx.engine.step:StageModel.after_step", 8),
    "save": ("torch:save", 3),
    "evaluation": ("reidx.engine.stage:evaluate", 2),
    "between stages": ("reidx.engine.experiment:stage_card", 1),
}

Strike = Callable[..., object]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, domains_root: Path) -> tuple[Path, Path]:
    """Return the config of an uninterrupted run of two stages, and its folder, which tests must not change."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_experiment(folder / "experiment.yaml", tiny_experiment(domains_root, stages=STAGES))
    reidx.run(reidx.load_config(path), folder / "run", progress="quiet")
    return path, folder / "run"


@pytest.fixture
def unfinished(whole: tuple[Path, Path], tmp_path: Path) -> Path:
    """Return a copy of that run as of the first epoch of its second stage."""
    folder = Path(shutil.copytree(whole[1], tmp_path / "unfinished"))
    for name in ("result.json", "2-adapt/done.json", "2-adapt/epoch_2.pth", "2-adapt/epoch_2.sha256"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def struck() -> Callable[[str, Strike], Any]:
    """Return a context manager: in ``struck(moment, strike)``, the function of that moment calls ``strike`` first."""

    class Struck:
        def __init__(self, moment: str, strike: Strike) -> None:
            self.moment, self.strike = moment, strike

        def __enter__(self) -> None:
            target, number = MOMENTS[self.moment]
            module, _, path = target.partition(":")
            owner: Any = importlib.import_module(module)
            *outer, name = path.split(".")
            for part in outer:
                owner = getattr(owner, part)
            original, calls = getattr(owner, name), []

            def struck(*args: Any, **kwargs: Any) -> Any:
                calls.append(name)
                if len(calls) == number:
                    self.strike(*args, **kwargs)
                return original(*args, **kwargs)

            self.patch = pytest.MonkeyPatch()
            self.patch.setattr(owner, name, struck)

        def __exit__(self, *_: object) -> None:
            self.patch.undo()

    return Struck
