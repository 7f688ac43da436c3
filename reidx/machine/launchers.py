"""Start of the processes of one job, and their joint end after an error."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

from reidx.errors import ConfigError
from reidx.machine import slurm

Launcher = Literal["auto", "none", "torchrun", "slurm"]
LINGER = 5.0
"""Seconds that a failed process waits for the errors of the others."""


@contextlib.contextmanager
def job_membership(launcher: Launcher = "auto") -> Iterator[None]:
    """Context in which this process is a member of its job, if it has one.

    ``auto`` recognises ``torchrun`` by its environment; ``slurm`` (:mod:`reidx.machine.slurm`, one task per GPU) must be
    explicit, because a login shell inside an allocation has the same variables. Uses NCCL with GPUs, gloo without. Raises
    :class:`ConfigError` if the environment does not match the launcher.

    If another process already had the same error, this one is marked for :func:`reidx.errors.reported_elsewhere`, so that it
    is reported once.
    """
    by_torchrun = {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= set(os.environ)
    if launcher == "none" or (launcher == "auto" and not by_torchrun):
        yield
        return
    import torch  # here, because a single process needs it only after its config is checked
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    if launcher == "slurm":
        slurm.join_step()
    elif not by_torchrun:
        raise ConfigError(
            "--launcher torchrun: this process was not started by it. Run: torchrun --nproc-per-node N -m reidx train …"
        )
    elif torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield
    except BaseException as error:
        if not isinstance(error, SystemExit):  # a terminated process has no time, and has reported it
            vars(error)["reported_elsewhere"] = _reported_elsewhere(error)
        if dist.get_backend() != "nccl":  # NCCL would wait for pending operations of the others; it ends with the process
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _reported_elsewhere(error: BaseException) -> bool:
    """Return True if another process had the same error; waits at most :data:`LINGER` seconds, since all may be dead."""
    import torch.distributed as dist

    from reidx.distributed import count, rank

    digest = hashlib.sha256(f"{type(error).__name__} {error}".encode(errors="replace")).hexdigest()
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=LINGER))
        before = store.add(f"reidx/error/{digest}", 1) > 1
        until = time.monotonic() + LINGER
        # without torchrun the store is in the first process, and the others still need it
        keeps_it = rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        while keeps_it and time.monotonic() < until and store.add(f"reidx/error/{digest}", 0) < count():
            time.sleep(0.05)
        return before
    except Exception:  # the process with the store is gone: report the error here
        return False
