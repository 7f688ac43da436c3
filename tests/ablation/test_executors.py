"""Contract of the executors: outcomes of runs, their end by `stop`; and Slurm jobs, run by submitit on this machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reidx.ablation import on_ray, on_slurm, workers
from reidx.ablation.executor import Executor, Handle, Outcome
from reidx.ablation.on_ray import OnRay
from reidx.ablation.on_slurm import OnSlurm
from reidx.ablation.plan import Plan
from reidx.ablation.workers import Workers
from reidx.errors import ConfigError, ReidxError
from reidx.testing import fake_slurm
from reidx.testing.runs import processes_with

Planned = Callable[..., Plan]
TWO = {"axes": {"clusterer.eps": [0.7, 0.6]}}
LONG = {"stages": [{"name": "adapt", "epochs": 500, "iters": 1, "evaluate": {"domain": None}}]}

ray_only = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (reidx[ray])")
slurm_only = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed (reidx[slurm])")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to find the process of a run")
EXECUTORS = ["workers", pytest.param("ray", marks=ray_only), pytest.param("local jobs", marks=slurm_only)]


@pytest.fixture
def executor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: None
) -> Iterator[Executor]:
    """The executor of a test; `listening`, because a local job is cancelled by SIGINT, which a background shell ignores."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: the runs would stop on a busy machine
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    with open(tmp_path / "lock", "w") as lock:
        made: dict[str, Callable[[], Executor]] = {
            "workers": lambda: Workers(2, lock),
            "ray": lambda: OnRay(2, None),
            "local jobs": lambda: OnSlurm(2, tmp_path / "home", cluster="local"),
            "jobs in this process": lambda: OnSlurm(2, tmp_path / "home", cluster="debug"),
        }
        own = made[request.param]()
        yield own
        own.close()


def outcome_of(handle: Handle) -> Outcome:
    while (outcome := handle.outcome()) is None:
        time.sleep(0.05)
    return outcome


@pytest.mark.parametrize("executor", [*EXECUTORS, pytest.param("jobs in this process", marks=slurm_only)], indirect=True)
def test_runs_end_with_their_outcome(executor: Executor, planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short command and a failing one stand in for runs."""
    well, doomed = planned(**TWO).runs
    words = {well.hash: ["--version"], doomed.hash: ["train", "lost.yaml"]}
    for module in (workers, on_ray, on_slurm):
        monkeypatch.setattr(module, "arguments_of", lambda run: words[run.hash])
    assert executor.slots == 2
    handles = [executor.start(run) for run in (well, doomed)]
    assert outcome_of(handles[0]) == Outcome()
    assert "lost.yaml" in str(outcome_of(handles[1]).reason)
    assert well.config_file.read_text() == well.config.render()


@needs_proc
@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
def test_stopped_run_leaves_no_process(executor: Executor, planned: Planned) -> None:
    (run,) = planned(LONG, axes={"clusterer.eps": [0.7]}).runs
    handle = executor.start(run)
    while not list(run.folder.glob("1-adapt/epoch_*.pth")):
        assert handle.outcome() is None
        time.sleep(0.05)
    assert processes_with(run.log)
    handle.stop()
    while processes_with(run.log):
        time.sleep(0.05)
    assert run.result() is None


@needs_proc
@slurm_only
def test_preempted_job_resumes_in_the_queue(planned: Planned, tmp_path: Path) -> None:
    stages = [{"name": "adapt", "epochs": 3, "iters": 2}]
    (run,) = planned({"stages": stages}, axes={"clusterer.eps": [0.7]}).runs
    handle = OnSlurm(1, tmp_path / "home", cluster="local").start(run)
    while not (run.folder / "1-adapt/epoch_1.pth").is_file():
        assert handle.outcome() is None
        time.sleep(0.05)
    (process,) = processes_with(run.log)
    status = Path(f"/proc/{process}/status").read_text()
    os.kill(int(status.partition("PPid:")[2].split()[0]), signal.SIGUSR2)  # as Slurm does, ahead of the end of the job
    assert outcome_of(handle) == Outcome()
    result: Any = run.result()
    assert result["card"]["sessions"] == 2


@slurm_only
def test_killed_job_is_reported(planned: Planned) -> None:
    class Killed:
        job_id, state, paths = "7", "OUT_OF_MEMORY", type("Paths", (), {"stderr": "7_log.err"})

        def done(self) -> bool:
            return True

        def exception(self) -> Exception:
            return RuntimeError("no result")

    (run,) = planned(axes={"clusterer.eps": [0.7]}).runs
    reason = "Slurm job 7 ended as OUT_OF_MEMORY (log: 7_log.err); the next call resumes from the last checkpoint"
    assert on_slurm.OnSlurmHandle(Killed(), run, 0).outcome() == Outcome(reason)


@slurm_only
def test_job_file_has_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_slurm.install(tmp_path))
    jobs: Any = OnSlurm(None, tmp_path / "home", {"partition": "gpu", "time": 60, "cpus_per_task": 0, "mem": "8GB"})._jobs
    text = jobs._executor._make_submission_file_text("train", "id")
    lines = {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {"--partition=gpu", "--time=60", "--gpus-per-node=1", "--mem=8GB", "--requeue", "--signal=USR2@90"} <= lines
    assert not any(line.startswith("--cpus-per-task") for line in lines) and "srun" in text


@slurm_only
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partitoin": "gpu"}, r"--slurm partitoin=gpu: there is no option 'partitoin'\. Did you mean partition\?"),
        ({"time": "4:00:00"}, r"--slurm time=4:00:00: give whole minutes"),
        ({"nodes": 2}, r"--slurm nodes=2: a run of an ablation is one process"),
    ],
)
def test_wrong_job_options_are_refused(options: dict[str, str | int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        OnSlurm(None, tmp_path, options, cluster="local")


@slurm_only
def test_machine_without_slurm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReidxError, match=r"this machine has no sbatch and srun\. Run the command on a node"):
        OnSlurm(None, tmp_path)


def test_missing_submitit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ReidxError, match=r"submitit is not installed: pip install 'reidx\[slurm\]'"):
        OnSlurm(None, tmp_path)
