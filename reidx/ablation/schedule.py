"""Execution of a plan: as many concurrent runs as slots; runs that share a stage wait for the one that trains it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from reidx.ablation.executor import Executor, Handle, Outcome
from reidx.ablation.follow import LogTail, seconds_left
from reidx.ablation.plan import Plan, Run, held_by
from reidx.errors import Terminated
from reidx.reporting.displays import Stderr

EVERY = 0.5
"""Seconds between two polls of the runs."""


@dataclass
class SweepState:
    """State of an ablation: its waiting, running, finished and failed runs."""

    plan: Plan
    slots: int = 1
    waiting: list[Run] = field(default_factory=list)
    under_way: dict[str, tuple[Run, LogTail]] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Results of the finished runs (``result.json``), by hash."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons of the failed runs, by hash."""

    @property
    def seconds_left(self) -> float | None:
        """Estimated remaining seconds; None if not known."""
        done = [(run, self.done[run.hash]["card"]["seconds"]) for run in self.plan.runs if run.hash in self.done]
        return seconds_left(self.waiting, self.under_way.values(), done, self.slots)


class SweepListener:
    """Receiver of progress events; the base class ignores them."""

    def began(self, sweep: SweepState, run: Run) -> None:
        """Handle a run that was started or resumed."""

    def ended(self, sweep: SweepState, run: Run) -> None:
        """Handle a run that finished or failed."""

    def looked(self, sweep: SweepState) -> None:
        """Handle a poll of the running runs."""

    def close(self) -> None:
        """Handle the end of the ablation, complete or interrupted."""


def sweep_state_of(plan: Plan) -> SweepState:
    """Initial state of a plan, in which the results of earlier sessions count as done."""
    sweep = SweepState(plan)
    for run in plan.runs:
        result = run.result()
        if result is None:
            sweep.waiting.append(run)
        else:
            sweep.done[run.hash] = result
    return sweep


def carry_out(sweep: SweepState, executor: Executor, watcher: SweepListener) -> None:
    """Execute all waiting runs; a failed run is recorded, and the others continue.

    Ctrl-C and SIGTERM stop the running runs first; the next call resumes them from their last checkpoints.
    """
    sweep.slots = executor.slots
    handles: dict[str, Handle] = {}
    with _terminating(), closing(watcher), closing(executor):
        try:
            while sweep.waiting or handles:
                for run, _ in list(sweep.under_way.values()):
                    outcome = handles[run.hash].outcome()
                    if outcome is not None:
                        del handles[run.hash]
                        _end(sweep, run, outcome)
                        watcher.ended(sweep, run)
                while len(handles) < executor.slots and (free := _next(sweep)) is not None:
                    sweep.waiting.remove(free)
                    sweep.under_way[free.hash] = free, LogTail(free.log)
                    watcher.began(sweep, free)
                    handles[free.hash] = executor.start(free)
                for _, follower in sweep.under_way.values():
                    follower.look()
                watcher.looked(sweep)
                if handles:
                    time.sleep(EVERY)
        finally:
            threads = [threading.Thread(target=handle.stop) for handle in handles.values()]
            for thread in threads:  # in parallel, because each may take a while to end
                thread.start()
            for thread in threads:
                thread.join()


def _next(sweep: SweepState) -> Run | None:
    """First waiting run that does not depend on a running one."""
    busy = [run for run, _ in sweep.under_way.values()]
    return next((run for run in sweep.waiting if held_by(run, busy) is None), None)


def _end(sweep: SweepState, run: Run, outcome: Outcome) -> None:
    del sweep.under_way[run.hash]
    result = run.result()
    if outcome.reason is None and result is not None:
        sweep.done[run.hash] = result
    else:
        sweep.failed[run.hash] = outcome.reason or f"it exited without an error but left no result in {run.folder}"


@contextmanager
def _terminating() -> Iterator[None]:
    """Context manager in which SIGTERM raises :class:`Terminated`; a handler of the program stays in place."""

    def end(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # shutdown has started
        print("terminated (SIGTERM); run the command again to resume", file=Stderr(), flush=True)
        raise Terminated("")

    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if mine:
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
