"""A grid on a Ray cluster of this machine with several workers, one of which is killed in the middle of its run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import reidx
from reidx.ablation.grid import read_grid
from reidx.ablation.plan import Run, plan_of
from reidx.ablation.schedule import Watcher, carry_out, standing_of
from reidx.testing.runs import assert_same_run
from reidx.testing.tiny import tiny_experiment

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'reidx[ray]')")

STAGES = [{"name": "adapt", "epochs": 3, "iters": 2}]
SECTION = {"axes": {"recipe": {"plain": {}, "wider": {"labels.clusterer.eps": 0.75}, "lost": {"init": "nowhere.pth"}}}}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as Ray gives a run, for sums in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[Any]:
    """A cluster of this machine with room for two runs, which may take its time to start on a busy one."""
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def pids_of(run: Run) -> list[int]:
    """The processes that have the run's log open, but this one, which looks into it now and then."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name == str(os.getpid()):
            continue
        try:
            if any(os.readlink(link) == str(run.log.resolve()) for link in (process / "fd").iterdir()):
                found.append(int(process.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to find the worker of a run")
def test_a_killed_worker_is_taken_up_again_from_its_checkpoint(cluster: Any, tmp_path: Path, domains_root: Path) -> None:
    from reidx.ablation.on_ray import OnRay

    path = tmp_path / "grid.yaml"
    grid = {**tiny_experiment(domains_root, stages=STAGES, log=[]), "ablate": SECTION}
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    plan = plan_of(read_grid(path), tmp_path / "home")
    runs = {row.labels["recipe"]: run for row in plan.rows for run in row.runs.values()}
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            if (runs["plain"].folder / "1-adapt/epoch_1.pth").is_file() and (pids := pids_of(runs["plain"])):
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
            time.sleep(0.02)

    striker = threading.Thread(target=kill, daemon=True)
    striker.start()
    standing = standing_of(plan)
    executor = OnRay(None, None)
    assert executor.slots == 2
    carry_out(standing, executor, Watcher())
    assert killed, standing.failed
    assert ray.is_initialized()  # the cluster was not this executor's to leave
    assert list(standing.failed) == [runs["lost"].hash] and "nowhere.pth" in standing.failed[runs["lost"].hash]
    assert set(standing.done) == {runs["plain"].hash, runs["wider"].hash}
    legs = {label: runs[label].result()["card"]["legs"] for label in ("plain", "wider")}  # type: ignore[index]
    assert legs == {"plain": 2, "wider": 1}
    reidx.run(reidx.load_config(runs["plain"].config_file), tmp_path / "alone", progress="quiet")
    assert_same_run(runs["plain"].folder, tmp_path / "alone")
