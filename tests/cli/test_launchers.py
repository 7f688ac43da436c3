"""`reidx train` started as several processes: by torchrun, as two nodes of a network, by Slurm."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from reidx.errors import ConfigError
from reidx.machine import launchers, slurm
from reidx.testing import fake_slurm

ROOT = Path(__file__).parents[2]

AS_SLURM_TASK = """
import os, sys, types, torch
import torch.distributed as dist
from reidx import distributed
from reidx.errors import ReidxError
from reidx.machine import slurm
gpus = os.environ.get("FAKE_GPUS", "").split()  # the ids of the GPUs that this task sees
torch.cuda.device_count = lambda: len(gpus)
torch.cuda.get_device_properties = lambda number: types.SimpleNamespace(uuid=gpus[number])
torch.cuda.set_device = lambda number: print("device", gpus[number])
begin = dist.init_process_group
dist.init_process_group = lambda backend, **given: (print(backend), begin("gloo", **given))
try:
    slurm.join_step()
except ReidxError as error:
    sys.exit(f"error: {error}")
print(distributed.rank(), distributed.count(), distributed.all_gather_rows(torch.tensor([distributed.rank()])).tolist())
dist.destroy_process_group()
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
    out, err = run.communicate(timeout=600)
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


def step_of(tasks: int, **variables: str) -> dict[str, str]:
    """Variables of a step with ``tasks`` tasks, all on this machine."""
    ids = {"SLURM_JOB_ID": "41", "SLURM_STEP_ID": "0", "SLURM_NTASKS": str(tasks), "SLURM_NODELIST": "localhost"}
    return {**ids, "MASTER_PORT": free_port(), **variables}


def as_task(step: dict[str, str], rank: int, gpus: str = "") -> subprocess.Popen[str]:
    """Start a task of a step; ``gpus`` that it sees, separated by spaces."""
    return started(["-c", AS_SLURM_TASK], **step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), FAKE_GPUS=gpus)


@pytest.mark.parametrize(
    ("gpus", "choices"),
    [
        (["a b", "a b"], ["device a\nnccl", "device b\nnccl"]),  # each task sees all GPUs of the node
        (["a", "b"], ["device a\nnccl", "device b\nnccl"]),  # each task sees its own, which has number 0
    ],
)
def test_slurm_task_takes_its_own_gpu(gpus: list[str], choices: list[str], tmp_path: Path) -> None:
    """The rendezvous host is the first one that `scontrol` lists."""
    step = step_of(2, SLURM_NODELIST="node[1-2]", PATH=fake_slurm.install(tmp_path))
    outputs = [finished(task) for task in [as_task(step, rank, seen) for rank, seen in enumerate(gpus)]]
    assert outputs == [f"{choice}\n{rank} 2 [0, 1]\n" for rank, choice in enumerate(choices)]


def test_slurm_tasks_with_one_gpu_are_refused() -> None:
    """As with ``--gres gpu:1``, which requests one GPU per node."""
    step = step_of(2)
    for task in [as_task(step, rank, "a") for rank in range(2)]:
        _, err = task.communicate(timeout=600)
        assert task.returncode == 1 and "tasks 0 and 1 share a GPU. Request one per task: --ntasks-per-node N --gpus" in err


def test_gpus_of_slurm_tasks_differ() -> None:
    slurm.refuse_shared(["a", "b", "c"])
    slurm.refuse_shared(["", ""])
    with pytest.raises(ConfigError, match="tasks 1 and 2 share a GPU"):
        slurm.refuse_shared(["a", "b", "b"])
    with pytest.raises(ConfigError, match="task 1 has no GPU, but others have"):
        slurm.refuse_shared(["a", ""])


def test_slurm_jobs_have_different_ports() -> None:
    base = {**step_of(1), "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "MASTER_PORT": ""}
    others: list[dict[str, str]] = [{}, {"SLURM_JOB_ID": "42"}, {"SLURM_STEP_ID": "1"}, {"SLURM_JOB_ID": "40"}]
    ports = {slurm.Task.of({**base, **ids}).port for ids in others}
    assert len(ports) == 4 and all(1024 < port < 32768 and port != 29500 for port in ports)
    assert slurm.Task.of({**base, "MASTER_PORT": "5000", "MASTER_ADDR": "there"}).host == "there"


def test_slurm_jobs_with_equal_ports_do_not_meet() -> None:
    step = step_of(2)
    first = as_task(step, 0)
    while first.poll() is None and not listens(int(step["MASTER_PORT"])):
        time.sleep(0.05)
    others = [as_task({**step, "SLURM_JOB_ID": "42"}, rank) for rank in range(2)]
    try:
        _, err = others[0].communicate(timeout=600)
        assert others[0].returncode == 1 and "set MASTER_PORT" in err
        assert others[1].poll() is None and first.poll() is None  # each waits for the other task of its job
        assert finished(as_task(step, 1)).endswith("1 2 [0, 1]\n") and finished(first).endswith("0 2 [0, 1]\n")
    finally:
        for task in [first, *others]:
            task.kill()
            task.communicate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_port_in_use_is_named() -> None:
    with closing(socket.create_server(("0.0.0.0", 0))) as taken:
        port = str(taken.getsockname()[1])
        refused = as_task(step_of(1, MASTER_PORT=port), 0)
        _, err = refused.communicate(timeout=600)
    assert refused.returncode == 1 and f"localhost:{port}: " in err and "set MASTER_PORT to another one" in err
    assert err.strip().splitlines()[-1].startswith("error: ")


def test_hosts_need_scontrol_only_for_ranges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [slurm.first_host(nodes) for nodes in ("gpu7", "gpu7,gpu9")] == ["gpu7", "gpu7"]
    with pytest.raises(ConfigError, match=r"hosts of gpu\[7-9\] .* Set MASTER_ADDR to the first"):
        slurm.first_host("gpu[7-9]")


def test_sbatch_example_resumes_after_requeue(experiment: Callable[..., Path], tmp_path: Path) -> None:
    """The signal ahead of the time limit requeues the job, which resumes from its last checkpoint."""
    path = experiment()
    folder = tmp_path / "runs/slurm-4711"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": fake_slurm.install(tmp_path),
        "FAKE_JOB_ID": "4711",
        "FAKE_REQUEUED": str(tmp_path / "requeued"),
        "FAKE_LIMIT": str(folder / "1-adapt/epoch_1.pth"),
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }
    words = ["--nodes", "1", "--ntasks-per-node", "2", str(ROOT / "docs/train.sbatch")]
    words += [str(path), "--set", "stages.adapt.epochs=3"]
    done = subprocess.run(
        ["sbatch", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((folder / "result.json").read_text())["card"]
    assert card["processes"] == 2 and card["sessions"] == 2


def test_documented_slurm_lines_request_a_gpu_per_task() -> None:
    page = (ROOT / "docs/distributed.md").read_text()
    lines = [line.replace("\\\n", " ") for line in re.findall(r"^srun (?:.*\\\n)*.*", page, re.MULTILINE)]
    requests = [fake_slurm.options().parse_args(shlex.split(line, comments=True)[1:]) for line in lines]
    requests.append(fake_slurm.batch_options(ROOT / "docs/train.sbatch", []))
    assert len(requests) == 2
    for request in requests:
        assert request.nodes and request.ntasks_per_node == request.gpus_per_node > 1
    assert requests[-1].requeue and requests[-1].signal.startswith("B:") and requests[-1].open_mode == "append"


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("torchrun", "was not started by it. Run: torchrun"),
        ("slurm", "SLURM_JOB_ID, SLURM_STEP_ID, .* is not set: srun did not start this process"),
    ],
)
def test_wrong_launcher_is_refused(
    launcher: launchers.Launcher, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=message), launchers.job_membership(launcher):
        pass
