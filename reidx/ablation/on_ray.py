"""Executor on a Ray cluster, whose machines need access to the ablation's folder and an installation of reidx and its plugins.

Ray schedules the runs and restarts those whose worker or machine died; they resume from their last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from reidx.ablation.executor import Outcome, arguments_of, prepare, reason_in
from reidx.ablation.plan import Run
from reidx.errors import ReidxError

RETRIES = 3
"""Restarts of a run whose worker died."""


class OnRay:
    """Executor on a Ray cluster: at ``address``, at RAY_ADDRESS, or started on this machine.

    A run takes a GPU if the cluster has any, otherwise a CPU; ``slots`` defaults to their number. Raises
    :class:`ReidxError` if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, slots: int | None, address: str | None) -> None:
        there_is_one = bool(address or os.environ.get("RAY_ADDRESS"))
        keep_to_itself(os.environ, local=not there_is_one)
        try:
            import ray
        except ImportError:
            raise ReidxError("--executor ray: Ray is not installed: pip install 'reidx[ray]'.") from None
        try:
            with _signals_kept():
                ray.init(
                    address=address if there_is_one else "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=None if there_is_one else False,
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ReidxError(f"--executor ray: the cluster cannot be reached: {error}") from error
        self.ray: Any = ray
        there = ray.cluster_resources()
        on_gpus = there.get("GPU", 0) >= 1
        self.slots = slots or max(1, int(there["GPU" if on_gpus else "CPU"]))
        # one run per worker process, so that no run inherits another's global state
        gpus = 1 if on_gpus else 0
        self._train: Any = ray.remote(max_calls=1, max_retries=RETRIES, num_cpus=1, num_gpus=gpus)(train)

    def start(self, run: Run) -> OnRayHandle:
        """Start a run, or resume it from its last checkpoint."""
        prepare(run)
        begun_at = run.log.stat().st_size if run.log.exists() else 0
        # absolute paths, and the working directory for relative ones in the config, valid on every machine
        home = run.home.resolve()
        there = Run(run.config, home)
        reference = self._train.remote(arguments_of(there), os.getcwd(), str(there.log))
        return OnRayHandle(self.ray, reference, run, begun_at)

    def close(self) -> None:
        """Leave the cluster."""
        self.ray.shutdown()


def keep_to_itself(environment: MutableMapping[str, str], local: bool) -> None:
    """Set the variables that Ray reads on import: no usage statistics, and only the loopback address for a local cluster.

    Variables that the user has set are kept.
    """
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:  # Ray's switch for one machine; an address given to ray.init would be made reachable from outside
        environment.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Context manager that restores the SIGTERM handler: Ray's handler would exit at once and leave the runs behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


class OnRayHandle:
    """A run on a cluster."""

    def __init__(self, ray: Any, reference: Any, run: Run, begun_at: int) -> None:
        self.ray, self.reference, self.run, self.begun_at = ray, reference, run, begun_at

    def outcome(self) -> Outcome | None:
        """Return the outcome of the run, or None while it is running."""
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            code = self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Outcome(f"Ray gave up ({type(error).__name__}: {lines[0]}); the next call resumes from the last checkpoint")
        return Outcome() if code == 0 else Outcome(reason_in(self.run.log, self.begun_at))

    def stop(self) -> None:
        """Stop the run at once; its committed epochs are kept."""
        self.ray.cancel(self.reference, force=True)


def train(arguments: list[str], folder: str, log: str) -> int:
    """Run ``reidx`` with ``arguments`` in a Ray worker, with its output in ``log``; returns the exit code."""
    os.chdir(folder)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        kept = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        given = sys.argv
        sys.argv = ["reidx", *arguments]
        try:
            runpy.run_module("reidx", run_name="__main__")  # not a subprocess, which would outlive a killed worker
            return 0
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = given
            for stream, own in zip((1, 2), kept):
                os.dup2(own, stream)
                os.close(own)
