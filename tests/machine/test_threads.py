"""Number of computing threads: the free cores of the machine, kept for a whole run, and reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import reidx
from reidx.engine.loop import StageLoop
from reidx.machine import threads
from reidx.machine.threads import (
    LoadSample,
    ThreadCountWatch,
    available_cores,
    choose_thread_count,
    cores_busy_elsewhere,
    free_core_count,
    sample_load,
    threads_set_to,
    wait_briefly,
)
from reidx.runs.manifest import RECORD


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that fakes the number of cores and the load of other processes."""
    for name in (*threads.NUMBER, *threads.WAITING):
        monkeypatch.delenv(name, raising=False)

    def make(cores: int, taken: float = 0.0, quota: int | None = None) -> None:
        monkeypatch.setattr(threads, "cores", lambda: set(range(cores)))
        monkeypatch.setattr(threads, "available_cores", lambda: quota or cores)
        monkeypatch.setattr(threads, "cores_busy_elsewhere", lambda since=None: taken)

    return make


@pytest.mark.parametrize(
    ("cores", "taken", "quota", "number"),
    [(2, 0.0, None, 2), (2, 1.0, None, 1), (2, 0.3, None, 2), (2, 2.0, None, 1), (8, 3.2, None, 5), (64, 10, 4, 4)],
)
def test_threads_are_the_cores_that_are_free(machine, cores: int, taken: float, quota: int | None, number: int) -> None:
    machine(cores, taken, quota)
    said: list[str] = []
    assert choose_thread_count("auto", None, said.append) == free_core_count(taken) == number
    assert bool(said) == (number < cores)
    assert all(f"{number} thread" in line and "--threads N" in line for line in said)


def test_user_or_run_overrides_the_free_cores(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(8, 0.0)
    said: list[str] = []
    assert choose_thread_count(3, 2, said.append) == 3
    assert choose_thread_count("auto", 2, said.append) == 2
    (line,) = said
    assert "as the run was begun with" in line
    assert "--resume --threads 8" in line
    assert choose_thread_count(None, None, said.append) == torch.get_num_threads()
    assert choose_thread_count(None, 2, said.append) == 2
    # other processes of the same job are no load
    assert choose_thread_count("auto", None, said.append, alone=False) == torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert choose_thread_count("auto", None, said.append) == torch.get_num_threads() and len(said) == 1


def test_watch_counts_threads_and_reports_changes(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(2, 1.0)
    monkeypatch.setattr(threads, "MIN_SAMPLE_SECONDS", 0.0)
    said: list[str] = []
    watch = ThreadCountWatch(said.append)
    with threads_set_to(2):
        assert [watch(), watch()] == [1, 1] and torch.get_num_threads() == 2
    with threads_set_to(1):
        assert watch() == 1
    assert len(said) == 2 and "1 thread from the next epoch on, not 2: other work keeps 1.0 of 2 cores busy" in said[0]
    monkeypatch.setattr(threads, "MIN_SAMPLE_SECONDS", 60.0)
    with threads_set_to(2):
        assert watch() == 2  # the epoch was too short to judge


def test_resumed_run_keeps_threads_by_epoch(
    machine, experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(2)
    monkeypatch.setattr(threads, "MIN_SAMPLE_SECONDS", 0.0)
    taken = {1: 1.0, 2: 1.0, 3: 0.0, 4: 0.0}  # at the end of each epoch
    epoch = 0

    def cores_busy_elsewhere(since: LoadSample | None = None) -> float:
        return 0.0 if since is None else taken[epoch]

    monkeypatch.setattr(threads, "cores_busy_elsewhere", cores_busy_elsewhere)
    plain = StageLoop.run_epoch

    def counted(self: StageLoop, stop: int | None = None) -> None:
        nonlocal epoch
        epoch = self.epoch + 1
        if epoch == stop:
            raise KeyboardInterrupt
        plain(self)

    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 4, "iters": 2}]))
    monkeypatch.setattr(StageLoop, "run_epoch", counted)
    whole = reidx.run(config, tmp_path / "whole", progress="quiet", threads="auto")
    assert whole.card["stages"]["adapt"]["threads_by_epoch"] == [2, 1, 1, 2]
    monkeypatch.setattr(StageLoop, "run_epoch", lambda self: counted(self, stop=3))
    with pytest.raises(KeyboardInterrupt):
        reidx.run(config, tmp_path / "ended", progress="quiet", threads="auto")
    monkeypatch.setattr(StageLoop, "run_epoch", counted)
    resumed = reidx.run(config, tmp_path / "ended", resume=True, progress="quiet", threads="auto")
    assert resumed.card["stages"]["adapt"]["threads_by_epoch"] == [2, 1, 1, 2] and "resumed_anyway" not in resumed.card
    losses, again = ([entry["loss"] for entry in result.stages[0].history] for result in (whole, resumed))
    assert again == losses and resumed.metrics == whole.metrics


def test_given_or_shared_threads_do_not_change(
    machine, experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(2, 1.0)
    monkeypatch.setattr(threads, "MIN_SAMPLE_SECONDS", 0.0)
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 2, "iters": 2}]))
    given = reidx.run(config, tmp_path / "given", progress="quiet", threads=2)
    shared = reidx.run(config, tmp_path / "one", progress="quiet", threads="auto", share=tmp_path / "shared")
    for result in (given, shared):
        assert not any("threads" in entry for entry in result.stages[0].history)
        assert "threads_by_epoch" not in result.card["stages"]["adapt"]


def test_load_of_others_excludes_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "cores", lambda: {1, 2})
    tick = os.sysconf("SC_CLK_TCK")
    row = " ".join(str(number * tick) for number in (3, 1, 2, 100, 50, 1, 1, 1, 7, 0))  # the last two are part of the first
    stat = tmp_path / "stat"
    stat.write_text(f"cpu  9 9 9 9\ncpu0 {row}\ncpu1 {row}\ncpu2 {row}\nintr 5\n", encoding="utf-8")
    seen = sample_load(stat)
    assert seen is not None and seen.busy == 2 * (3 + 1 + 2 + 1 + 1 + 1)
    assert sample_load(tmp_path / "none") is None
    monkeypatch.setattr(threads, "sample_load", lambda: LoadSample(20.0, 39.0, 14.0))
    assert cores_busy_elsewhere(LoadSample(10.0, 10.0, 5.0)) == pytest.approx((29 - 9) / 10)


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({}, "0::/\n", 8),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 3),
        ({"cpu,x/y/cpu.cfs_quota_us": "400000\n", "cpu,x/y/cpu.cfs_period_us": "100000\n"}, "4:cpu,x:/y\n", 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/x\n3:cpuset:/\n", 8),
        ({"cpu.max": "nonsense\n"}, "nonsense", 8),
    ],
)
def test_quota_of_a_control_group(
    files: dict[str, str], membership: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: set(range(8)))
    for name, text in {**files, "membership": membership}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert available_cores(tmp_path, tmp_path / "membership") == cores


def test_threads_spin_briefly_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    wait_briefly()
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_briefly()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "5000"


def test_commands_set_waiting_before_importing_torch() -> None:
    code = "import os, sys; from reidx.cli.main import main; main(['list', 'protocol'])\n"
    code += "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    own = {name: value for name, value in os.environ.items() if name not in threads.WAITING}
    ran = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "5000 False"


def test_resumed_run_keeps_its_threads(
    experiment: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder, before = reidx.load_config(experiment()), tmp_path / "run", torch.get_num_threads()
    card = reidx.run(config, folder, progress="quiet", threads=2).card
    assert card["threads"] == 2 and torch.get_num_threads() == before
    assert json.loads((folder / RECORD).read_text(encoding="utf-8"))["provenance"]["threads"] == 2
    with threads_set_to(1):
        kept = reidx.run(config, folder, resume=True, progress="quiet").card
    assert kept["threads"] == 2 and "resumed_anyway" not in kept
    capsys.readouterr()
    other = reidx.run(config, folder, resume=True, progress="plain", threads=1).card
    assert other["threads"] == 1 and other["resumed_anyway"] == [{"threads": "2 → 1"}]
    assert "threads: 2 → 1" in capsys.readouterr().err
