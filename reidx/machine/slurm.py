"""Meeting of the tasks of a Slurm step (``srun``): address, port, and a separate GPU for each task."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from reidx.errors import ConfigError, RunError

FIRST_PORT, PORTS = 10_000, 22_000
"""Range of ports, below those that Linux gives to connections (from 32768)."""

PATIENCE = timedelta(minutes=30)
"""Maximum wait of a task for the others."""

NEEDED = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODELIST")
LINE = "srun --kill-on-bad-exit python -m reidx train … --launcher slurm"


@dataclass(frozen=True)
class Task:
    """A task of a step: its numbers in the step and on its node, and the place where the tasks meet."""

    step: str
    rank: int
    count: int
    local_rank: int
    host: str
    port: int

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Task:
        """Read the task from its environment; raises :class:`ConfigError` if ``srun`` has not started this process.

        The port follows from the ids of job and step, so that jobs on one node do not meet. MASTER_ADDR and MASTER_PORT
        take precedence.
        """
        missing = [name for name in NEEDED if name not in variables]
        if missing:
            raise ConfigError(
                f"--launcher slurm: {', '.join(missing)} is not set: srun did not start this process. Run: {LINE}"
            )
        nodes = variables.get("SLURM_STEP_NODELIST") or variables["SLURM_NODELIST"]
        job, step = int(variables["SLURM_JOB_ID"]), int(variables["SLURM_STEP_ID"])
        return cls(
            step=f"{job}.{step}",
            rank=int(variables["SLURM_PROCID"]),
            count=int(variables.get("SLURM_STEP_NUM_TASKS") or variables["SLURM_NTASKS"]),
            local_rank=int(variables["SLURM_LOCALID"]),
            host=variables.get("MASTER_ADDR") or first_host(nodes),
            # 7919 is a prime: the steps of a job are far from the following jobs
            port=int(variables.get("MASTER_PORT") or FIRST_PORT + (job + 7919 * step) % PORTS),
        )


def first_host(nodes: str) -> str:
    """First host of a node list such as ``gpu[07-09],big1``; raises :class:`ConfigError` if ``scontrol`` cannot expand it."""
    if "[" not in nodes:
        return nodes.partition(",")[0]
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return listed.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ConfigError(
            f"--launcher slurm: scontrol cannot list the hosts of {nodes} ({error}). Set MASTER_ADDR to the first of them."
        ) from error


def join_step() -> None:
    """Make this task a member of its step's process group: NCCL with GPUs, gloo without.

    A task takes the visible GPU with its number on the node, modulo their count: Slurm may show all GPUs of the node to
    each task, or to each task its own. Raises :class:`ConfigError` if two tasks would share a GPU, and :class:`RunError`
    if the tasks cannot meet.
    """
    task = Task.of(os.environ)
    import torch
    import torch.distributed as dist

    visible = torch.cuda.device_count()
    own = task.local_rank % visible if visible else 0
    device = str(torch.cuda.get_device_properties(own).uuid) if visible else ""
    try:
        # the store of another job on this port would have another prefix, so that the jobs do not meet in it
        server = dist.TCPStore(task.host, task.port, task.count, task.rank == 0, PATIENCE, wait_for_workers=False)
        store = dist.PrefixStore(task.step, server)
        devices = all_devices(store, task, device)
    except dist.DistError as error:
        reason = re.split(r"\n|Exception raised from", str(error))[0].rstrip(" .")
        raise RunError(
            f"--launcher slurm: task {task.rank} cannot meet the other {task.count - 1} at {task.host}:{task.port}: {reason}. "
            "If the port is in use, set MASTER_PORT to another one for all tasks."
        ) from error
    try:
        refuse_shared(devices)
    except ConfigError as error:  # all tasks raise it, and the first one reports it
        vars(error)["reported_elsewhere"] = task.rank > 0
        raise
    if visible:
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if visible else "gloo", store=store, rank=task.rank, world_size=task.count)


def all_devices(store: object, task: Task, device: str) -> list[str]:
    """Exchange the ids of the tasks' GPUs through a store of torch; ``""`` for none."""
    from torch.distributed import Store

    assert isinstance(store, Store)
    store.set(f"device/{task.rank}", f"gpu {device}" if device else "cpu")
    texts = [store.get(f"device/{rank}").decode() for rank in range(task.count)]
    store.set(f"read/{task.rank}", "")
    if task.rank == 0:  # the store is in this process, and ends with it
        store.wait([f"read/{rank}" for rank in range(task.count)])
    return [text.removeprefix("gpu ") if text != "cpu" else "" for text in texts]


def refuse_shared(devices: Sequence[str]) -> None:
    """Raise :class:`ConfigError` if two tasks have the same GPU, or if only some have one; ``devices`` by rank."""
    for rank, device in enumerate(devices):
        first = devices.index(device)
        if device and first < rank:
            raise ConfigError(
                f"--launcher slurm: tasks {first} and {rank} share a GPU. Request one per task: "
                "--ntasks-per-node N --gpus-per-node N (docs/distributed.md)."
            )
    if "" in devices and any(devices):
        raise ConfigError(
            f"--launcher slurm: task {devices.index('')} has no GPU, but others have. Request one per task: "
            "--ntasks-per-node N --gpus-per-node N (docs/distributed.md)."
        )
