"""The runs of a plan carried out: as many at a time as there is room for, those that share a stage after who trains it."""

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
"""Seconds between two looks at the runs."""


@dataclass
class SweepState:
    """Where an ablation stands."""

    plan: Plan
    slots: int = 1
    waiting: list[Run] = field(default_factory=list)
    under_way: dict[str, tuple[Run, LogTail]] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each run that is done came to (its ``result.json``), by its hash."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why a run failed, by its hash."""

    @property
    def seconds_left(self) -> float | None:
        """How long all that is left takes, as far as that can be told."""
        done = [(run, self.done[run.hash]["card"]["seconds"]) for run in self.plan.runs if run.hash in self.done]
        return seconds_left(self.waiting, self.under_way.values(), done, self.slots)


class SweepListener:
    """Is told how an ablation goes on; this one tells nobody."""

    def began(self, standing: SweepState, run: Run) -> None:
        """A run was started, or is gone on with."""

    def ended(self, standing: SweepState, run: Run) -> None:
        """A run is done, or has failed."""

    def looked(self, standing: SweepState) -> None:
        """Time has passed."""

    def close(self) -> None:
        """There is nothing more to be told, be it that all is done or that the ablation was ended."""


def sweep_state_of(plan: Plan) -> SweepState:
    """Where a plan stands before anything of it is started: what earlier ablations have left is done."""
    standing = SweepState(plan)
    for run in plan.runs:
        result = run.result()
        if result is None:
            standing.waiting.append(run)
        else:
            standing.done[run.hash] = result
    return standing


def carry_out(standing: SweepState, executor: Executor, watcher: SweepListener) -> None:
    """Carry out all runs that wait. One that fails is noted, and the others go on.

    Ctrl-C and SIGTERM end the runs under way before they end this: whatever was committed is gone on with the next time.
    """
    standing.slots = executor.slots
    handles: dict[str, Handle] = {}
    with _terminating(), closing(watcher), closing(executor):
        try:
            while standing.waiting or handles:
                for run, _ in list(standing.under_way.values()):
                    outcome = handles[run.hash].outcome()
                    if outcome is not None:
                        del handles[run.hash]
                        _end(standing, run, outcome)
                        watcher.ended(standing, run)
                while len(handles) < executor.slots and (free := _next(standing)) is not None:
                    standing.waiting.remove(free)
                    standing.under_way[free.hash] = free, LogTail(free.log)
                    watcher.began(standing, free)
                    handles[free.hash] = executor.start(free)
                for _, follower in standing.under_way.values():
                    follower.look()
                watcher.looked(standing)
                if handles:
                    time.sleep(EVERY)
        finally:
            threads = [threading.Thread(target=handle.stop) for handle in handles.values()]
            for thread in threads:  # all at once: each may take a while to end
                thread.start()
            for thread in threads:
                thread.join()


def _next(standing: SweepState) -> Run | None:
    """The first run that waits for no other."""
    busy = [run for run, _ in standing.under_way.values()]
    return next((run for run in standing.waiting if held_by(run, busy) is None), None)


def _end(standing: SweepState, run: Run, outcome: Outcome) -> None:
    del standing.under_way[run.hash]
    result = run.result()
    if outcome.reason is None and result is not None:
        standing.done[run.hash] = result
    else:
        standing.failed[run.hash] = outcome.reason or f"it ended well but has left no result in {run.folder}"


@contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` inside, where this process does not listen to it otherwise."""

    def end(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the way out is taken already
        print("terminated (SIGTERM); call it again to go on", file=Stderr(), flush=True)
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
