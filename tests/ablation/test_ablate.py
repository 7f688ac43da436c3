"""A grid on a tiny domain from the command line: shared stages train once, failures stay isolated, nothing runs twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import reidx
from reidx.ablation import schedule, workers
from reidx.ablation.grid import read_grid
from reidx.ablation.plan import Run, plan_of
from reidx.ablation.workers import claimed
from reidx.cli.main import main
from reidx.errors import ConfigError
from reidx.testing.runs import assert_same_run
from reidx.testing.tiny import tiny_experiment

STAGES = [
    {"name": "warm", "epochs": 1, "iters": 2, "evaluate": {"domain": None}},
    {"name": "adapt", "epochs": 1, "iters": 2, "init": "stage:warm"},
]
RECIPES = {"plain": {}, "longer": {"stages.adapt.iters": 3}}
MISFIT = {"labels.refiners": [{"type": "pplr.CrossAgreement"}]}
SECTION = {"axes": {"recipe": {**RECIPES, "lost": {"stages.warm.init": "nowhere.pth"}, "misfit": MISFIT}}}
WELL = {"axes": {"recipe": RECIPES}}


def write_grid(path: Path, domains_root: Path, **section: Any) -> Path:
    grid = {**tiny_experiment(domains_root, stages=STAGES, log=[]), "ablate": section}
    path.write_text(yaml.safe_dump(grid, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory: pytest.TempPathFactory, domains_root: Path) -> tuple[Path, Path, int, str]:
    """Run a grid on two workers; return the grid, its folder, the exit code and the output."""
    folder = tmp_path_factory.mktemp("ablation")
    grid = write_grid(folder / "grid.yaml", domains_root, **SECTION)
    command = [sys.executable, "-m", "reidx", "ablate", str(grid), "--work-dir", str(folder / "home"), "--workers", "2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    return grid, folder / "home", done.returncode, done.stdout + done.stderr


def runs_of(grid: Path, home: Path) -> dict[str, Run]:
    return {row.labels["recipe"]: run for row in plan_of(read_grid(grid), home).rows for run in row.runs.values()}


def test_each_run_ends_or_reports_failure(carried_out: tuple[Path, Path, int, str]) -> None:
    grid, home, code, output = carried_out
    runs = runs_of(grid, home)
    assert code == 1, output  # one run has failed
    assert {label: run.result() is not None for label, run in runs.items()} == {"plain": True, "longer": True, "lost": False}
    assert re.search(rf"failed: {runs['lost'].hash}: .*there is no file nowhere\.pth", output)
    assert re.search(r"refused: recipe=misfit: .*grid\.yaml:\d+", output)
    assert "Stage warm is trained once for all runs that share it, which saves 1 training." in output
    assert "2 of 3 runs done, 1 failed" in output


def test_shared_stage_is_trained_once(
    carried_out: tuple[Path, Path, int, str], tmp_path: Path
) -> None:
    grid, home, *_ = carried_out
    runs = runs_of(grid, home)
    cards = [json.loads((runs[label].folder / "result.json").read_text())["card"] for label in ("plain", "longer")]
    assert [card.get("taken_over") for card in cards] == [None, {"warm": str(runs["plain"].folder)}]
    alone = reidx.load_config(runs["longer"].config_file)
    reidx.run(alone, tmp_path / "alone", progress="quiet")
    assert_same_run(runs["longer"].folder, tmp_path / "alone")


def test_results_page_links_to_all_runs(carried_out: tuple[Path, Path, int, str]) -> None:
    _, home, *_ = carried_out
    for page in (home / "results.md", *home.glob("cards/*.md")):
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).is_file(), f"{page}: {link}"


def test_finished_runs_and_dry_runs_start_nothing(
    carried_out: tuple[Path, Path, int, str],
    domains_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    grid, home, *_ = carried_out
    started: list[str] = []
    monkeypatch.setattr(workers.Workers, "start", lambda self, run: started.append(run.hash))
    assert main(["ablate", str(grid), "--work-dir", str(home), "--dry-run"]) == 0
    done = write_grid(grid.with_name("done.yaml"), domains_root, **WELL)
    assert main(["ablate", str(done), "--work-dir", str(home)]) == 0
    assert started == [] and "2 of 2 runs done" in capsys.readouterr().out


def test_interrupted_ablation_resumes_to_equal_results(
    carried_out: tuple[Path, Path, int, str], domains_root: Path, tmp_path: Path
) -> None:
    grid, home, *_ = carried_out
    write_grid(tmp_path / "grid.yaml", domains_root, **WELL)
    command = [sys.executable, "-m", "reidx", "ablate", str(tmp_path / "grid.yaml"), "--work-dir", str(tmp_path / "home")]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}  # one thread, as in the compared runs, gives sums in the same order
    begun = subprocess.Popen(
        command, env=own, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(tmp_path.glob("home/runs/*/1-warm/done.json")):
        assert begun.poll() is None
        time.sleep(0.05)
    begun.send_signal(signal.SIGTERM)
    _, output = begun.communicate(timeout=120)
    assert begun.returncode == 143 and "terminated (SIGTERM); run the command again to resume" in output
    with claimed(tmp_path / "home"):  # no run is still active
        pass
    assert subprocess.run(command, env=own, check=False, capture_output=True, timeout=600).returncode == 0
    for label, run in runs_of(tmp_path / "grid.yaml", tmp_path / "home").items():
        assert_same_run(run.folder, runs_of(grid, home)[label].folder)


def test_two_ablations_do_not_share_a_folder(tmp_path: Path) -> None:
    again = pytest.raises(ConfigError, match="is in use by another ablation")
    with claimed(tmp_path), again, claimed(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file cannot be used"), claimed(tmp_path / "file"):
        pass


def test_killed_worker_loses_only_its_run(
    planned: Callable[..., Any], finish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes stand in for runs: one is killed, the other run finishes."""
    monkeypatch.setattr(schedule, "EVERY", 0.01)
    plan = planned(axes={"clusterer.eps": [0.7, 0.6]})
    doomed, well = plan.runs
    code = {doomed.hash: "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", well.hash: "pass"}
    monkeypatch.setattr(workers, "arguments_of", lambda run: [run.hash])
    original = subprocess.Popen
    monkeypatch.setattr(
        workers.subprocess, "Popen", lambda command, **kwargs: original([sys.executable, "-c", code[command[-1]]], **kwargs)
    )
    finish(well, mAP=0.5)
    sweep = schedule.SweepState(plan, waiting=list(plan.runs))
    with open(tmp_path / "lock", "w") as lock:
        schedule.carry_out(sweep, workers.Workers(2, lock), schedule.SweepListener())
    assert sweep.failed == {doomed.hash: "its process was killed (SIGKILL); the next call resumes from the last checkpoint"}
    assert list(sweep.done) == [well.hash]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "give at least 1"),
        (["--address", "auto"], "add --executor ray"),
        (["--slurm", "time=60"], "add --executor slurm"),
        (["--executor", "slurm", "--slurm", "partition=gpu", "time"], "--slurm time: give KEY=VALUE"),
        (["--set", "stages.adapt.epochs=x"], r"epochs is 'x' \(a string\)"),
        (["--set", "epochz=1"], "has no key 'epochz'"),
    ],
)
def test_mistakes_in_the_command(
    domains_root: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = write_grid(tmp_path / "grid.yaml", domains_root, axes={"labels.clusterer.eps": [0.7]})
    assert main(["ablate", str(grid), "--work-dir", str(tmp_path / "home"), *words]) == 1
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "home").exists()


def test_each_worker_has_a_device_or_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with open(tmp_path / "lock", "w") as lock:
        monkeypatch.setattr(workers, "_gpus", lambda: ["2", "5"])
        on_gpus = workers.Workers(None, lock)
        assert on_gpus.slots == 2 and [on_gpus._environment(s)["CUDA_VISIBLE_DEVICES"] for s in (0, 1)] == ["2", "5"]
        monkeypatch.setattr(workers, "_gpus", list)
        monkeypatch.setattr(workers, "available_cores", lambda: 8)
        assert workers.Workers(None, lock).slots == 1 and "OMP_NUM_THREADS" not in workers.Workers(1, lock)._environment(0)
        assert workers.Workers(4, lock)._environment(0)["OMP_NUM_THREADS"] == "2"
