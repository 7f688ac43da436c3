"""Executor on a Slurm cluster through submitit: one job per run, submitted from a machine that shares the ablation's folder.

A job returns to the queue ahead of its time limit and after a preemption, and resumes from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reidx.ablation.executor import Outcome, arguments_of, prepare, reason_in
from reidx.ablation.plan import Run
from reidx.errors import ConfigError, ReidxError, suggest
from reidx.machine.lifetimes import PARENT

EVERY = 0.5
"""Seconds between two polls of the process."""

TERMINATED = 143
"""Exit code of ``reidx`` after SIGTERM."""

IN_QUEUE = 100
"""Default number of jobs in the queue, since clusters limit it."""

RETRIES = 20
"""Number of time limits that a run may reach."""

PATIENCE = 30.0
"""Seconds between SIGTERM and SIGKILL when a run makes room for its continuation."""

SLURM_DECIDES = 300.0
"""Maximum seconds between a SIGTERM from Slurm and the end of the job, which Slurm then cancels or requeues."""

DEFAULTS: dict[str, str | int] = {"time": 240, "gpus_per_node": 1, "cpus_per_task": 4}
"""Options of a job: minutes, GPUs, CPU cores."""

SHARED = {"time": "timeout_min", "gpus_per_node": "gpus_per_node", "cpus_per_task": "cpus_per_task"}
"""Options that submitit has for every kind of cluster, with its names; all others start with ``slurm_``."""


class OnSlurm:
    """Executor that submits each run as a job with ``options``, those of ``sbatch`` in submitit's names.

    ``slots`` limits the jobs in the queue. ``cluster`` is submitit's name of the place where the jobs run: ``local`` and
    ``debug`` are this machine. Raises :class:`ReidxError` if submitit or Slurm is missing, and :class:`ConfigError` for an
    unknown option.
    """

    def __init__(
        self, slots: int | None, home: Path, options: Mapping[str, str | int] | None = None, cluster: str = "slurm"
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise ReidxError("--executor slurm: submitit is not installed: pip install 'reidx[slurm]'.") from None
        if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise ReidxError("--executor slurm: this machine has no sbatch and srun. Run the command on a node of the cluster.")
        logging.getLogger("submitit").setLevel(logging.ERROR)
        given = {**DEFAULTS, **(options or {})}
        _check(given, submitit.SlurmExecutor._valid_parameters())
        self.slots = slots or IN_QUEUE
        self._jobs: Any = submitit.AutoExecutor(home.resolve() / "slurm", cluster=cluster, slurm_max_num_timeout=RETRIES)
        self._jobs.update_parameters(
            slurm_additional_parameters={"requeue": True},
            **{SHARED.get(name, f"slurm_{name}"): value for name, value in given.items() if value != 0},
        )

    def start(self, run: Run) -> OnSlurmHandle:
        """Submit a run, or its continuation from the last checkpoint."""
        import submitit

        prepare(run)
        begun_at = run.log.stat().st_size if run.log.exists() else 0
        # absolute paths, and the working directory for relative ones in the config, valid on every machine
        there = Run(run.config, run.home.resolve())
        self._jobs.update_parameters(name=f"reidx-{run.hash}")
        try:
            job = self._jobs.submit(Training(arguments_of(there), os.getcwd(), str(there.log)))
        except submitit.core.utils.FailedJobError as error:  # the message of sbatch
            raise ReidxError(f"--executor slurm: sbatch refused the job of run {run.hash}: {error}") from error
        return OnSlurmHandle(job, run, begun_at)

    def close(self) -> None:
        """Do nothing: the jobs belong to the cluster."""


def _check(options: Mapping[str, str | int], known: Collection[str]) -> None:
    """Raise :class:`ConfigError` for an option that submitit does not know, or that a run in one process cannot use."""
    for name, value in options.items():
        if name in ("nodes", "ntasks_per_node"):
            raise ConfigError(f"--slurm {name}={value}: a run of an ablation is one process.")
        if name not in known:
            raise ConfigError(f"--slurm {name}={value}: there is no option {name!r}. {suggest(name, known)}".rstrip())
        if name == "time" and not isinstance(value, int):
            raise ConfigError(f"--slurm time={value}: give whole minutes, for example time=240.")


@dataclass
class Training:
    """Work of a job: ``reidx`` with ``arguments`` in ``folder``, with its output in ``log``."""

    arguments: list[str]
    folder: str
    log: str

    def __call__(self) -> int:
        """Run to the end and return the exit code."""
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as output:
            # a separate process, so that Slurm's signals reach submitit's handlers; it ends with this one
            self._process = subprocess.Popen(
                [sys.executable, "-m", "reidx", *self.arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, PARENT: str(os.getpid())},
            )
        while self._process.poll() is None:  # `wait` would hold the lock that `checkpoint` needs
            time.sleep(EVERY)
        if self._process.returncode == TERMINATED:  # by Slurm, which is about to cancel or requeue this job
            time.sleep(SLURM_DECIDES)
        return self._process.returncode

    def checkpoint(self) -> Any:
        """End the process and return the work that continues it; submitit calls this before it requeues the job."""
        import submitit

        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return submitit.helpers.DelayedSubmission(Training(self.arguments, self.folder, self.log))


class OnSlurmHandle:
    """A run as a job."""

    def __init__(self, job: Any, run: Run, begun_at: int) -> None:
        self.job, self.run, self.begun_at = job, run, begun_at

    def outcome(self) -> Outcome | None:
        """Return the outcome of the run, or None while its job is queued or running."""
        if not self.job.done():
            return None
        if self.job.exception() is not None:
            return Outcome(
                f"Slurm job {self.job.job_id} ended as {self.job.state} (log: {self.job.paths.stderr}); "
                "the next call resumes from the last checkpoint"
            )
        return Outcome() if self.job.result() == 0 else Outcome(reason_in(self.run.log, self.begun_at))

    def stop(self) -> None:
        """Cancel the job; its committed epochs are kept."""
        self.job.cancel(check=False)
