"""`reidx train` started as several processes: by torchrun, as two nodes of a network, by Slurm."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reidx.errors import ConfigError
from reidx.machine import launchers

AS_SLURM_TASK = """
import torch
from reidx.machine import launchers
from reidx import distributed
torch.cuda.set_device = lambda device: print("device", device)  # a Slurm task uses the GPU with its number
launchers._join_slurm("gloo")
print(distributed.rank(), distributed.count(), distributed.all_gather_rows(torch.tensor([distributed.rank()])).tolist())
torch.distributed.destroy_process_group()
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def started(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(run: subprocess.Popen[str]) -> str:
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, out + err
    return out


@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_with_two_processes(nodes: int, experiment: Callable[..., Path], tmp_path: Path) -> None:
    """One node with two processes, and two nodes with one process each, connected over the loopback interface."""
    path, folder = experiment(), tmp_path / "run"
    job = ["-m", "reidx", "train", str(path), "--work-dir", str(folder), "--progress", "quiet"]
    meeting = ["--nnodes", str(nodes), "--nproc-per-node", str(2 // nodes), "--master-addr", "127.0.0.1"]
    meeting += ["--master-port", free_port()]
    launch = ["-m", "torch.distributed.run", *meeting, "--node-rank"]
    runs = [started([*launch, str(node), *job]) for node in range(nodes)]
    said = [finished(run) for run in runs]
    tables = [text for text in said if "mAP" in text]
    assert len(tables) == 1 and tables[0].count("mAP") == 1  # only the first process prints
    card = json.loads((folder / "result.json").read_text())
    assert card["card"]["processes"] == 2


def test_slurm_tasks_find_each_other(tmp_path: Path) -> None:
    """The rendezvous host is the first one that `scontrol` lists."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$1 $2 $3" = "show hostname node[1-2]" ] && echo 127.0.0.1 && echo elsewhere\n')
    scontrol.chmod(0o755)
    common = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_NTASKS": "2",
        "SLURM_NODELIST": "node[1-2]",
        "SLURM_LOCALID": "0",
        "MASTER_PORT": free_port(),
    }
    tasks = [started(["-c", AS_SLURM_TASK], **common, SLURM_PROCID=str(task)) for task in range(2)]
    assert [finished(task).split("\n")[-2] for task in tasks] == ["0 2 [0, 1]", "1 2 [0, 1]"]


@pytest.mark.parametrize(
    ("launcher", "message"),
    [("torchrun", "was not started by it. Run: torchrun"), ("slurm", "SLURM_PROCID, SLURM_NTASKS, .* is not set")],
)
def test_wrong_launcher_is_refused(
    launcher: launchers.Launcher, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=message), launchers.job_membership(launcher):
        pass
