"""A grid on a local Ray cluster with several workers, one of which is killed during its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import reidx
from reidx.ablation.grid import read_grid
from reidx.ablation.on_ray import keep_to_itself
from reidx.ablation.plan import plan_of
from reidx.testing.runs import assert_same_run, processes_with
from reidx.testing.tiny import tiny_experiment

pytest.importorskip("ray", reason="Ray is not installed (pip install 'reidx[ray]')")

STAGES = [{"name": "adapt", "epochs": 3, "iters": 2}]
SECTION = {"axes": {"recipe": {"plain": {}, "wider": {"labels.clusterer.eps": 0.75}, "lost": {"init": "nowhere.pth"}}}}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to find the worker of a run")
def test_killed_worker_resumes_from_its_checkpoint(tmp_path: Path, domains_root: Path) -> None:
    path = tmp_path / "grid.yaml"
    grid = {**tiny_experiment(domains_root, stages=STAGES, log=[]), "ablate": SECTION}
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    runs = {row.labels["recipe"]: run for row in plan_of(read_grid(path), tmp_path / "home").rows for run in row.runs.values()}
    command = [sys.executable, "-m", "reidx", "ablate", str(path), "--work-dir", str(tmp_path / "home")]
    # a separate cluster on this machine, which may start slowly under load
    environment = {**os.environ, "RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
    begun = subprocess.Popen(
        [*command, "--executor", "ray", "--workers", "2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killed = False
    while not killed and begun.poll() is None:
        if (runs["plain"].folder / "1-adapt/epoch_1.pth").is_file():
            for pid in processes_with(runs["plain"].log, begun.pid):
                os.kill(pid, signal.SIGKILL)
                killed = True
                break
        time.sleep(0.02)
    output, _ = begun.communicate(timeout=600)
    assert killed and begun.returncode == 1, output
    assert f"failed: {runs['lost'].hash}: " in output and "nowhere.pth" in output
    sessions = {label: runs[label].result()["card"]["sessions"] for label in ("plain", "wider")}  # type: ignore[index]
    assert sessions == {"plain": 2, "wider": 1}
    # Ray's number of threads, for sums in the same order
    reidx.run(reidx.load_config(runs["plain"].config_file), tmp_path / "alone", progress="quiet", threads=1)
    assert_same_run(runs["plain"].folder, tmp_path / "alone")


def test_ray_is_private_by_default() -> None:
    alone: dict[str, str] = {}
    keep_to_itself(alone, local=True)
    assert alone == {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    wanted = {"RAY_USAGE_STATS_ENABLED": "1"}
    keep_to_itself(wanted, local=False)
    assert wanted == {"RAY_USAGE_STATS_ENABLED": "1"}


def test_local_cluster_has_the_loopback_address() -> None:
    code = (
        "import os\nfrom reidx.ablation.on_ray import keep_to_itself\nkeep_to_itself(os.environ, local=True)\n"
        "import ray\nfrom ray._private.services import get_node_ip_address\nprint(get_node_ip_address())"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    found = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("127.0.0.1", "::1")
