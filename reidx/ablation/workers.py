"""Executor on this machine: one process per run, so that a crash affects only its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from reidx.ablation.executor import Outcome, arguments_of, prepare, reason_in
from reidx.ablation.plan import Run
from reidx.errors import ConfigError
from reidx.machine.lifetimes import PARENT
from reidx.machine.threads import available_cores
from reidx.runs.lock import exclusive_folder

PATIENCE = 30.0
"""Seconds between SIGTERM and SIGKILL when a run is stopped."""


class Workers:
    """Executor with ``slots`` concurrent runs on this machine, by default one per GPU (one without GPUs).

    Runs are assigned to the GPUs in turn. Without GPUs, concurrent runs share the cores evenly, unless OMP_NUM_THREADS is
    set. If this process is killed, each run receives SIGTERM; it keeps ``lock`` open until it ends.
    """

    def __init__(self, slots: int | None, lock: IO[str]) -> None:
        self.gpus = _gpus()
        self.slots = slots or max(1, len(self.gpus))
        self.lock = lock
        self._free = list(range(self.slots))

    def start(self, run: Run) -> Worker:
        """Start a run, or resume it from its last checkpoint."""
        prepare(run)
        slot = self._free.pop(0)
        return Worker(run, self._environment(slot), self.lock, lambda: self._free.append(slot))

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def _environment(self, slot: int) -> dict[str, str]:
        own = {**os.environ, PARENT: str(os.getpid())}
        if self.gpus:
            own["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        elif self.slots > 1:
            own.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // self.slots)))
        return own


class Worker:
    """Process of one run; ``freed`` is called after it has ended."""

    def __init__(self, run: Run, environment: dict[str, str], lock: IO[str], freed: object) -> None:
        self.run, self._freed = run, freed
        self._begun_at = run.log.stat().st_size if run.log.exists() else 0
        with open(run.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "reidx", *arguments_of(run)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C reaches only the parent, which then stops each run
            )

    def outcome(self) -> Outcome | None:
        """Return the outcome of the run, or None while it is running."""
        code = self.process.poll()
        if code is None:
            return None
        if callable(self._freed):
            self._freed()
            self._freed = None
        if code == 0:
            return Outcome()
        if code < 0:
            killed = signal.Signals(-code).name
            return Outcome(f"its process was killed ({killed}); the next call resumes from the last checkpoint")
        return Outcome(reason_in(self.run.log, self._begun_at))

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if the process has not ended within :data:`PATIENCE` seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextmanager
def claimed(home: Path) -> Iterator[IO[str]]:
    """Context manager that locks ``home`` for one ablation; every process with the lock file open holds the lock.

    Raises :class:`ConfigError` if another ablation, or a run that it has left behind, holds the lock.
    """
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(exclusive_folder(home, "in use by another ablation, or by runs of one that was killed"))
        except OSError as error:
            raise ConfigError(f"{home} cannot be used: {error.strerror}. Name another folder (--work-dir).") from error
        yield lock


def _gpus() -> list[str]:
    """GPUs available to this process, as named by CUDA_VISIBLE_DEVICES."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names if torch.cuda.is_available() else []


