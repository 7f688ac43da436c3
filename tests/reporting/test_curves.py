"""Curves for TensorBoard, Weights & Biases and MLflow: every committed epoch once, despite interruptions and failures."""

from __future__ import annotations

import importlib.machinery
import json
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import reidx
from reidx.errors import ConfigError
from reidx.reporting import curves
from reidx.reporting.curves import scalars


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> types.ModuleType:
    """Make a package that looks installed."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="made up")
    for key, value in contents.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make ``package`` look not installed."""
    find = curves.importlib.util.find_spec
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None if name == package else find(name))


def written(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read TensorBoard's curves: steps and values by tag."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_an_epoch_by_tags():
    entry = {"epoch": 3, "lr": 0.1, "loss": 2.0, "Triplet#2": 1.0, "images": 80, "clusters": 7.0, "mAP": 0.5, "rank-1": 0.6,
             "gpu_gb": 1.5, "seconds_train": 4.0, "stability": 0.9, "mAP_sd": 0.1, "metric_rank-2": 0.7,
             "reranked_mAP": 0.8, "reranked_metric_rank-2_sd": 0.2}  # fmt: skip
    assert scalars(entry, ["Triplet", "Triplet#2"]) == {
        "train/lr": 0.1,
        "train/loss": 2.0,
        "train/Triplet_2": 1.0,
        "train/images": 80.0,
        "train/gpu_gb": 1.5,
        "train/images_per_second": 20.0,
        "labels/clusters": 7.0,
        "labels/stability": 0.9,
        "test/mAP": 0.5,
        "test/rank-1": 0.6,
        "test/mAP_sd": 0.1,
        "test/rank-2": 0.7,
        "test/reranked_mAP": 0.8,
        "test/reranked_rank-2_sd": 0.2,
        "seconds/train": 4.0,
    }


def test_tensorboard_has_every_epoch_by_default(experiment: Callable[..., Path], tmp_path: Path):
    config = reidx.load_config(experiment(evaluate={"domain": "target", "before": True, "every": 1}))
    result = reidx.run(config, tmp_path / "run", progress="quiet")
    seen = written(tmp_path / "run")
    history = result.stages[0].history
    for name, tag in {"loss": "train/loss", "CrossEntropy": "train/CrossEntropy", "lr": "train/lr",
                      "clusters": "labels/clusters", "outliers": "labels/outliers"}.items():  # fmt: skip
        assert seen[f"adapt/{tag}"] == [(entry["epoch"], pytest.approx(entry[name])) for entry in history], tag
    tested = [(0, result.stages[0].before["mAP"]), *((entry["epoch"], entry["mAP"]) for entry in history)]
    assert seen["adapt/test/mAP"] == [(step, pytest.approx(value)) for step, value in tested]
    assert len(seen["adapt/train/images_per_second"]) == 2


def test_tensorboard_has_each_epoch_once_after_interruption(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch
):
    folder = tmp_path / "run"
    stages = [{"name": "warm", "epochs": 1, "iters": 2}, {"name": "adapt", "epochs": 3, "iters": 2}]
    config = reidx.load_config(experiment(stages=stages))
    add = curves.Curves.add

    def interrupted(self, stage, step, entry):
        add(self, stage, step, entry)
        if (stage.name, step) == ("adapt", 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(curves.Curves, "add", interrupted)
        reidx.run(config, folder, progress="quiet")
    reidx.run(config, folder, resume=True, progress="quiet")
    seen = written(folder)
    assert [step for step, _ in seen["adapt/train/loss"]] == [1, 2, 3]
    assert [step for step, _ in seen["warm/train/loss"]] == [1]


def test_missing_package_fails_only_if_named(
    experiment: Callable[..., Path], tmp_path, monkeypatch, capsys
):
    without(monkeypatch, "tensorboard")
    path = experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 1}])
    reidx.run(reidx.load_config(path), tmp_path / "default", progress="plain")
    shown = capsys.readouterr().err
    assert shown.count("no curves; log: tensorboard is not installed: pip install tensorboard\n") == 1
    assert not (tmp_path / "default" / "tensorboard").exists()
    with pytest.raises(ConfigError, match=r"pip install tensorboard, or remove it from the list") as error:
        reidx.run(reidx.load_config(path, ["log=[tensorboard]"]), tmp_path / "asked", progress="quiet")
    assert "--set" in str(error.value), "the message names the place of the request"
    assert not (tmp_path / "asked" / "experiment.json").exists()


def test_no_back_end_no_file(experiment: Callable[..., Path], tmp_path: Path):
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 1}]), ["log=[]"])
    reidx.run(config, tmp_path / "run", progress="quiet")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".lock", "1-adapt", "config.yaml", "experiment.json", "result.json",
    }  # fmt: skip


def test_back_ends_do_not_change_the_hash(experiment: Callable[..., Path]):
    path = experiment()
    assert reidx.load_config(path).hash == reidx.load_config(path, ["log=[]"]).hash


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("[tensorbord]", "there is no log back-end 'tensorbord'. Did you mean tensorboard"),
        ("[{type: wandb, projct: x}]", "wandb has no setting 'projct'"),
        ("[{type: mlflow, exp_name: 3}]", r"log.0.exp_name is 3 .*expected"),
        ("[{type: tensorboard, save_dir: x}]", "tensorboard has no setting 'save_dir'"),
    ],
)
def test_mistakes_in_log_are_found_at_loading(experiment: Callable[..., Path], log: str, message: str):
    with pytest.raises(ConfigError, match=message):
        reidx.load_config(experiment(), [f"log={log}"])


class Wandb:
    """Stand-in for Weights & Biases: the part that mmengine's back-end calls."""

    def __init__(self, fails_at: int = 10**9) -> None:
        self.inits: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []
        self.rows: list[dict[str, float]] = []
        self.joined, self.fails_at = 0, fails_at

    def init(self, **settings: Any) -> None:
        self.inits.append(settings)

    def define_metric(self, **settings: Any) -> None:
        self.metrics.append(settings)

    def log(self, row: dict[str, float], commit: bool = True) -> None:
        if len(self.rows) == self.fails_at:
            raise ConnectionError("the server is away")
        self.rows.append(row)

    def join(self) -> None:
        self.joined += 1

    finish = join

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = ("init", "define_metric", "log", "join", "finish")
        fake(monkeypatch, "wandb", **{name: getattr(self, name) for name in names})


def test_wandb_by_one_line(experiment: Callable[..., Path], tmp_path: Path, monkeypatch):
    wandb = Wandb()
    wandb.install(monkeypatch)
    folder = tmp_path / "run"
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 2, "iters": 2}]), ["log=[wandb]"])
    result = reidx.run(config, folder, progress="quiet")
    (settings,) = wandb.inits
    assert settings["project"] == "tiny"
    assert settings["name"] == "run"
    assert settings["config"] == config.data
    assert wandb.metrics == [{"name": "adapt/*", "step_metric": "adapt/epoch"}]
    assert [row["adapt/epoch"] for row in wandb.rows] == [1.0, 2.0]
    assert [row["adapt/train/loss"] for row in wandb.rows] == [entry["loss"] for entry in result.stages[0].history]
    assert wandb.joined == 1
    assert not (folder / "tensorboard").exists()


def test_resumed_run_continues_its_wandb_run(
    experiment: Callable[..., Path], tmp_path, monkeypatch
):
    wandb = Wandb()
    wandb.install(monkeypatch)
    folder = tmp_path / "run"
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 3, "iters": 2}]), ["log=[wandb]"])
    log = wandb.log

    def interrupted(row: dict[str, float], commit: bool = True) -> None:
        log(row)
        raise KeyboardInterrupt

    sys.modules["wandb"].log = interrupted  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        reidx.run(config, folder, progress="quiet")
    sys.modules["wandb"].log = log  # type: ignore[attr-defined]
    reidx.run(config, folder, resume=True, progress="quiet")
    assert wandb.inits[0]["id"] == wandb.inits[1]["id"] and wandb.inits[1]["resume"] == "allow"
    assert [row["adapt/epoch"] for row in wandb.rows] == [1.0, 2.0, 3.0]


def test_run_survives_a_lost_server(
    experiment: Callable[..., Path], tmp_path, monkeypatch, capsys
):
    wandb = Wandb(fails_at=1)
    wandb.install(monkeypatch)
    folder = tmp_path / "run"
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 3, "iters": 2}]), ["log=[wandb, tensorboard]"])
    reidx.run(config, folder, progress="plain")
    assert capsys.readouterr().err.count("log: wandb failed and is disabled until the run is resumed") == 1
    assert len(wandb.rows) == 1 and len(written(folder)["adapt/train/loss"]) == 3
    (folder / "1-adapt" / "done.json").unlink()  # as after an interruption just before its end
    wandb.fails_at = 10**9
    reidx.run(config, folder, resume=True, progress="quiet")
    assert [row["adapt/epoch"] for row in wandb.rows] == [1.0, 2.0, 3.0]


def test_failing_back_end_stops_the_run_early(experiment: Callable[..., Path], tmp_path, monkeypatch):
    wandb = Wandb()
    wandb.install(monkeypatch)

    def refused(**settings: Any) -> None:
        raise ValueError("api_key not configured")

    sys.modules["wandb"].init = refused  # type: ignore[attr-defined]
    config = reidx.load_config(experiment(), ["log=[wandb]"])
    with pytest.raises(ConfigError, match="log: wandb does not start: api_key not configured"):
        reidx.run(config, tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run" / "experiment.json").exists()


class MLflow:
    """Stand-in for MLflow: the part that mmengine's back-end calls."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self.experiments: dict[str, str | None] = {}
        self.runs: list[str | None] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.active: str | None = None

    def set_tracking_uri(self, uri: str) -> None:
        self.uris.append(uri)

    def get_experiment_by_name(self, name: str) -> str | None:
        return name if name in self.experiments else None

    def create_experiment(self, name: str, artifact_location: str | None = None) -> None:
        self.experiments[name] = artifact_location

    def set_experiment(self, name: str) -> None:
        assert name in self.experiments

    def set_tag(self, key: str, value: str) -> None:
        if self.active is None:
            self.start_run()

    def start_run(self, **settings: Any) -> types.SimpleNamespace:
        self.runs.append(os.environ.get("MLFLOW_RUN_ID"))
        self.active = self.runs[-1] or f"made-{len(self.runs)}"
        return self.active_run()

    def active_run(self) -> Any:
        return self.active and types.SimpleNamespace(info=types.SimpleNamespace(run_id=self.active))

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        self.rows.append((step, metrics))

    def end_run(self) -> None:
        self.active = None


def test_mlflow_by_one_line_and_resumed(experiment: Callable[..., Path], tmp_path: Path, monkeypatch):
    mlflow = MLflow()
    fake(monkeypatch, "mlflow", **{n: getattr(mlflow, n) for n in dir(mlflow) if not n.startswith("_")})
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "run"
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 2, "iters": 2}]), ["log=[mlflow]"])
    result = reidx.run(config, folder, progress="quiet")
    assert mlflow.uris == [f"sqlite:///{folder}/mlflow/mlflow.db"] and list(mlflow.experiments) == ["tiny"]
    assert [step for step, _ in mlflow.rows] == [1, 2]
    assert [row["adapt/train/loss"] for _, row in mlflow.rows] == [entry["loss"] for entry in result.stages[0].history]
    for _, row in mlflow.rows:
        assert all(re.fullmatch(r"[\w\-./ ]+", name) for name in row), "mlflow refuses other names"
    assert json.loads((folder / "curves.json").read_text())["mlflow"]["run"] == "made-1"

    (folder / "1-adapt" / "done.json").unlink()
    reidx.run(config, folder, resume=True, progress="quiet")
    assert mlflow.runs == [None, "made-1"]
    assert len(mlflow.rows) == 2
    assert mlflow.active is None
    reidx.run(config, tmp_path / "another", progress="quiet")
    assert mlflow.runs == [None, "made-1", None], "another run in this process is a new MLflow run"
