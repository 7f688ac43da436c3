"""Runs on the machines of a Ray cluster, which must see the folder of the ablation and have reidx and its plugins installed.

Ray places the runs and starts those again whose worker, or whose machine, died: they go on from their last checkpoint.
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
"""How often a run is taken up again whose worker died."""


class OnRay:
    """Runs on a Ray cluster: that at ``address``, or the one that RAY_ADDRESS names, or one started on this machine.

    A run takes a GPU where the cluster has any, else a CPU; ``slots`` are by default as many as there are of these. Raises
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
        # a worker serves one run, so that what a run leaves behind in its process is nobody else's
        gpus = 1 if on_gpus else 0
        self._train: Any = ray.remote(max_calls=1, max_retries=RETRIES, num_cpus=1, num_gpus=gpus)(train)

    def start(self, run: Run) -> OnRayHandle:
        """Begin a run, or go on with it from its last checkpoint."""
        prepare(run)
        begun_at = run.log.stat().st_size if run.log.exists() else 0
        # paths, and the working directory that those in the config start at, as every machine sees them
        home = run.home.resolve()
        there = Run(run.config, home)
        reference = self._train.remote(arguments_of(there), os.getcwd(), str(there.log))
        return OnRayHandle(self.ray, reference, run, begun_at)

    def close(self) -> None:
        """Leave the cluster."""
        self.ray.shutdown()


def keep_to_itself(environment: MutableMapping[str, str], local: bool) -> None:
    """Set what Ray reads when it is imported: no usage statistics, and for a cluster of this machine alone no other
    address than the loopback one. Where the user's environment says otherwise, it stays so."""
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:  # Ray's own switch for a cluster of one machine; an address that is handed to ray.init is made reachable
        environment.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """SIGTERM does afterwards what it did before: Ray would have it leave at once, with the runs still there."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


class OnRayHandle:
    """A run on a cluster."""

    def __init__(self, ray: Any, reference: Any, run: Run, begun_at: int) -> None:
        self.ray, self.reference, self.run, self.begun_at = ray, reference, run, begun_at

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""
        ready, _ = self.ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            code = self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            return Outcome(f"Ray gave it up ({type(error).__name__}: {said[0]}); it goes on from its last checkpoint next time")
        return Outcome() if code == 0 else Outcome(reason_in(self.run.log, self.begun_at))

    def stop(self) -> None:
        """End it at once; what it has committed stays."""
        self.ray.cancel(self.reference, force=True)


def train(arguments: list[str], folder: str, log: str) -> int:
    """The exit code of ``reidx`` with these arguments, in a worker of Ray; what it tells goes to ``log``."""
    os.chdir(folder)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as told:
        kept = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(told.fileno(), stream)
        given = sys.argv
        sys.argv = ["reidx", *arguments]
        try:
            runpy.run_module("reidx", run_name="__main__")  # as in a process of its own, which would outlive a killed worker
            return 0
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = given
            for stream, own in zip((1, 2), kept):
                os.dup2(own, stream)
                os.close(own)
