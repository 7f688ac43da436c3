"""Profiles: the table of times adds up and names the work, the trace is readable, and a run in the folder is unaffected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import reidx
from reidx.cli.main import main
from reidx.engine.profile import TRACED, Row, profile, rows_of, table
from reidx.profiling import Stopwatch


def watched(**seconds: float) -> Stopwatch:
    """Return a stopwatch with the given seconds per span, named ``outer__inner``."""
    watch = Stopwatch(torch.device("cpu"))
    for name, value in seconds.items():
        path = tuple(name.split("__")) if name != "_" else ()
        watch.own[path], watch.calls[path] = value, 1 if path else 0
    return watch


def test_rows_are_innermost_spans_by_phase():
    watch = watched(
        _=1.0,
        relabel__distance__neighbours=2.0,
        relabel__distance=4.0,
        relabel=8.0,
        train__forward=16.0,
        relabel__cluster__neighbours=32.0,
        train=64.0,
        commit=128.0,
    )
    rows = rows_of(watch)
    assert [(row.name, row.seconds, row.calls) for row in rows] == [
        ("relabel: neighbours", 34.0, 2),
        ("relabel: distance", 4.0, 1),
        ("relabel: other", 8.0, 1),
        ("train: forward", 16.0, 1),
        ("train: other", 64.0, 1),
        ("commit", 128.0, 1),
        ("other", 1.0, 0),
    ]
    assert sum(row.seconds for row in rows) == watch.seconds == 255.0


def test_the_table():
    rows = [Row("relabel: extract", 3.0, 1, 300), Row("train: data", 0.75, 20, 0), Row("other", 0.25, 0, 0)]
    assert table(rows).splitlines() == [
        "                    seconds    share   times   images/s",
        "relabel: extract      3.000    75.0%       1        100",
        "train: data           0.750    18.8%      20",
        "other                 0.250     6.2%",
        "all                   4.000   100.0%",
    ]


@pytest.fixture
def profiled(experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """Return the profile of two stages, the second initialised from the first, and the run's folder."""
    monkeypatch.setattr("reidx.engine.profile.STEPS", 6)
    stages = [{"name": "warm", "epochs": 3, "iters": 2}, {"name": "adapt", "init": "stage:warm", "epochs": 2, "iters": 30}]
    folder = tmp_path / "run"
    return profile(reidx.load_config(experiment(stages=stages)), folder, "quiet"), folder


def test_a_profile(profiled):
    shown, folder = profiled
    assert {path.name for path in (folder / "profile").iterdir()} == {
        ".lock", "times.txt", "1-warm.trace.json", "2-adapt.trace.json",
    }  # fmt: skip
    assert shown.startswith((folder / "profile" / "times.txt").read_text().rstrip())
    second = shown[shown.index("stage adapt") :].splitlines()
    for name in ("relabel: extract", "relabel: neighbours", "relabel: distance", "relabel: cluster", "train: data",
                 "train: to device", "train: transform", "train: forward", "train: backward", "train: optimiser",
                 "train: memory", "evaluate: extract", "evaluate: rank", "commit", "other"):  # fmt: skip
        assert any(line.startswith(name) for line in second), name
    seconds = [float(line[20:].split()[0]) for line in second if "%" in line]
    assert sum(seconds[:-1]) == pytest.approx(seconds[-1], abs=0.0005 * len(seconds))
    assert any(line.startswith("train: forward") and line.split()[-1] == "6" for line in second), "6 steps were requested"
    assert "6 of 30 steps" in shown

    events = json.loads((folder / "profile" / "2-adapt.trace.json").read_text())["traceEvents"]
    marks = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    assert (marks["forward"], marks["backward"], marks["memory"]) == (TRACED,) * 3


def test_profile_leaves_a_run_unchanged(profiled, experiment: Callable[..., Path]):
    _, folder = profiled
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 2}]))
    result = reidx.run(config, folder, progress="quiet")
    assert result.card["sessions"] == 1 and (folder / "profile" / "times.txt").is_file()


def test_a_schedule_of_more_epochs_than_are_timed(experiment: Callable[..., Path], tmp_path: Path):
    schedule = [{"type": "LinearLR", "start_factor": 0.5, "end": 2}, {"type": "CosineAnnealingLR", "begin": 2}]
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 5, "iters": 2}], schedule=schedule))
    assert "train: optimiser" in profile(config, tmp_path / "run", "quiet")


def test_a_stage_that_only_evaluates(experiment: Callable[..., Path], tmp_path: Path):
    config = reidx.load_config(experiment(stages=[{"name": "direct", "epochs": 0}]))
    shown = profile(config, tmp_path / "run", "quiet")
    assert "evaluate: rank" in shown
    assert "train" not in shown
    assert not list(tmp_path.glob("run/profile/*.json"))


def test_the_command(experiment: Callable[..., Path], tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("reidx.engine.profile.profile", lambda *given: f"{given[0].experiment.name} {given[1:]}")
    path = str(experiment())
    assert main(["train", path, "--profile", "--work-dir", str(tmp_path), "--progress", "quiet"]) == 0
    assert capsys.readouterr().out == f"tiny ({tmp_path!r}, 'quiet')\n"
    with pytest.raises(SystemExit):
        main(["train", path, "--profile", "--resume"])
    assert "not allowed with" in capsys.readouterr().err
