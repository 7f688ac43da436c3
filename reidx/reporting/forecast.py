"""Remaining time of an experiment, from its remaining work and the measured times."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reidx.config.schema import Stage

Kind = Literal["relabel", "step", "evaluate", "commit"]


def work_of(stage: Stage, epoch: int) -> Counter[str]:
    """Count the work of an epoch by kind: labellings (renewed or matched), steps, evaluations, commits.

    ``epoch`` counts from 0; −1 is the evaluation before the first epoch.
    """
    tested = stage.evaluate.domain is not None
    if epoch < 0:
        return Counter(evaluate=int(tested and (stage.evaluate.before or stage.epochs == 0)))
    if epoch >= stage.epochs:
        return Counter()
    every, done = stage.evaluate.every, epoch + 1
    due = done == stage.epochs or (every > 0 and done % every == 0)
    return Counter(
        relabel=sum(any(epoch % every == 0 for every in _intervals(stage, name)) for name in stage.labels),
        step=stage.iters,
        evaluate=int(tested and due),
        commit=1,
    )


@dataclass
class Pace:
    """Mean time in seconds per unit of work."""

    seconds: float = 0.0
    units: float = 0.0
    measured: int = 0

    def add(self, seconds: float, units: int, forget: bool) -> None:
        """Add a measurement; ``forget`` drops the earlier ones."""
        if forget:
            self.seconds = self.units = 0.0
        self.seconds, self.units, self.measured = self.seconds + seconds, self.units + units, self.measured + 1

    def fade(self) -> None:
        """Halve the weight of all measurements so far."""
        self.seconds, self.units = self.seconds / 2, self.units / 2

    @property
    def each(self) -> float:
        return self.seconds / self.units


class Forecast:
    """Remaining work of an experiment's ``stages`` and its estimated time.

    The time of a step is the mean over its stage, in which each earlier epoch counts half as much as the next. Any other work
    takes as long as the last of its kind in its stage. A stage without measurements uses those of another stage. Stages not
    in ``stages`` are ignored.
    """

    def __init__(self, stages: Sequence[Stage] = ()) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.left: dict[str, Counter[str]] = {s.name: _work_from(s, -1) for s in stages}
        self.steps = sum(left["step"] for left in self.left.values())
        self._paces: dict[tuple[str, str], Pace] = {}
        self._latest: dict[str, Pace] = {}
        self._running: tuple[str | None, Kind, float] | None = None

    @property
    def steps_done(self) -> int:
        """Training steps done so far, over all stages."""
        return self.steps - sum(left["step"] for left in self.left.values())

    def at(self, stage: str | None, epoch: int) -> None:
        """Move to the start of ``epoch`` of a stage; −1 is the evaluation before the first epoch."""
        if stage not in self.stages:
            return
        for name in self.stages:
            if name == stage:
                break
            self.left[name] = Counter()
        self.left[stage] = _work_from(self.stages[stage], epoch)
        if (stage, "step") in self._paces:
            self._paces[stage, "step"].fade()

    def begin(self, stage: str | None, kind: Kind) -> None:
        """Record the start of work of a kind; its elapsed time is subtracted from the estimate."""
        self._running = stage, kind, time.monotonic()

    def measured(self, stage: str | None, epoch: int, kind: Kind, seconds: float, steps: int = 1) -> None:
        """Add a measurement: the work of a kind in an epoch, or ``steps`` training steps, took ``seconds``."""
        self._running = None
        if stage not in self.stages:
            return
        units = steps if kind == "step" else work_of(self.stages[stage], epoch)[kind]
        if units:
            pace = self._paces.setdefault((stage, kind), Pace())
            # the very first step includes one-time costs: worker processes, compiled kernels
            alone = pace.measured == 1 and pace.units <= 1
            pace.add(seconds, units, forget=kind != "step" or alone)
            self._latest[kind] = pace
            self.left[stage][kind] -= units

    def recall(self, stage: str | None, history: Sequence[Mapping[str, float]]) -> None:
        """Add the measurements of epochs from an earlier session of the run."""
        for entry in history if stage in self.stages else ():
            epoch = int(entry["epoch"]) - 1
            self.measured(stage, epoch, "relabel", entry["seconds_relabel"])
            self.measured(stage, epoch, "step", entry["seconds_train"], self.stages[stage or ""].iters)
            self.measured(stage, epoch, "evaluate", entry["seconds_evaluate"])

    def seconds_left(self) -> tuple[float, bool] | None:
        """Estimate the remaining seconds; the flag is false if some kind of work ahead has not been measured.

        None before the first measured training step, and when no work is left.
        """
        total, whole = 0.0, True
        for stage, left in self.left.items():
            for kind, units in left.items():
                pace = self._paces.get((stage, kind)) or self._latest.get(kind)
                if units <= 0:
                    continue
                if pace is not None:
                    total += max(units * pace.each - self._elapsed(stage, kind, pace), 0.0)
                elif kind == "step":
                    return None
                elif kind != "commit":
                    whole = False
        return (total, whole) if total else None

    def _elapsed(self, stage: str, kind: str, pace: Pace) -> float:
        if self._running is None or self._running[:2] != (stage, kind):
            return 0.0
        return min(time.monotonic() - self._running[2], pace.each)


def _work_from(stage: Stage, epoch: int) -> Counter[str]:
    """Count the work of a stage from the start of ``epoch`` on: the sum of :func:`work_of`, in closed form.

    A stage may have millions of epochs.
    """
    first = max(epoch, 0)
    left = max(stage.epochs - first, 0)
    tested, every = stage.evaluate.domain is not None, stage.evaluate.every
    due = _multiples(every, first + 1, stage.epochs) + (every == 0 or stage.epochs % every > 0) if left else 0
    rest = Counter(
        relabel=sum(_multiples_of_any(_intervals(stage, name), first, stage.epochs - 1) for name in stage.labels),
        step=stage.iters * left,
        evaluate=tested * due,
        commit=left,
    )
    return (work_of(stage, -1) if epoch < 0 else Counter[str]()) + rest


def _intervals(stage: Stage, labelling: str) -> list[int]:
    """Return the intervals, in epochs, at which a labelling or one that it is matched with is due."""
    return sorted({stage.labels[name].relabel_every for name in stage.matched_with(labelling)})


def _multiples_of_any(steps: Sequence[int], first: int, last: int) -> int:
    """Count the multiples of at least one of ``steps`` among ``first`` … ``last``, by inclusion and exclusion."""
    several = (some for size in range(1, len(steps) + 1) for some in itertools.combinations(steps, size))
    return sum((-1) ** (len(some) + 1) * _multiples(math.lcm(*some), first, last) for some in several)


def _multiples(step: int, first: int, last: int) -> int:
    """Count the multiples of ``step`` among ``first`` … ``last``; 0 if ``step`` is 0."""
    return max(last // step - (first - 1) // step, 0) if step else 0
