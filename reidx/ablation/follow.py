"""Progress of runs from the events in their logs, and the remaining time of an ablation."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from reidx.ablation.plan import Run


class LogTail:
    """Reader of the events that a run appends to its log after construction."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.stage: str | None = None
        self.epoch = 0
        self.left: float | None = None
        """Remaining seconds, as estimated by the run; None if not known."""
        self.metrics: dict[str, float] = {}
        self._plan: list[dict[str, Any]] = []
        self._at = log.stat().st_size if log.exists() else 0
        self._rest = b""

    def look(self) -> None:
        """Read the events since the last call."""
        if not self.log.exists():
            return
        with open(self.log, "rb") as handle:
            handle.seek(self._at)
            text = handle.read()
        self._at += len(text)
        *lines, self._rest = (self._rest + text).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        self._plan = event.get("stages", self._plan) if event.get("event") == "run_start" else self._plan
        self.stage = event.get("stage") or self.stage
        self.left = event.get("run_seconds_left", self.left)
        self.metrics = event.get("metrics") or self.metrics
        if event.get("event") in ("stage_start", "stage_skipped"):
            self.epoch = 0
        if event.get("event") == "epoch_end":
            self.epoch = int(event["epoch"] or 0)

    @property
    def share(self) -> float:
        """Committed fraction of the run's steps, from 0 to 1."""
        names = [stage["name"] for stage in self._plan]
        if self.stage not in names:
            return 0.0
        here = names.index(self.stage)
        done = sum(s["epochs"] * s["iters"] for s in self._plan[:here]) + self.epoch * self._plan[here]["iters"]
        return done / max(1, sum(s["epochs"] * s["iters"] for s in self._plan))

    @property
    def where(self) -> str:
        """Current stage with its committed epochs: ``adapt 3/50``."""
        epochs = next((stage["epochs"] for stage in self._plan if stage["name"] == self.stage), None)
        return "starting" if epochs is None else f"{self.stage} {self.epoch}/{epochs}"


def seconds_left(
    waiting: Iterable[Run], under_way: Iterable[tuple[Run, LogTail]], done: Collection[tuple[Run, float]], slots: int
) -> float | None:
    """Estimate the remaining seconds of waiting and running runs on ``slots`` slots; None without any measurement.

    The time of a step is the mean over the runs ``done`` (run, seconds) and under way. A shared stage counts once.
    """
    running = list(under_way)
    known: list[tuple[float, float]] = [(sum(_steps(run).values()), seconds) for run, seconds in done]
    known += [(sum(_steps(run).values()) * (1 - f.share), f.left) for run, f in running if f.left is not None]
    steps = sum(count for count, _ in known)
    if not steps:
        return None
    pace = sum(seconds for _, seconds in known) / steps
    trained = {key for run, _ in [*done, *running] for key in run.stages}
    each = [f.left if f.left is not None else sum(_steps(run).values()) * (1 - f.share) * pace for run, f in running]
    for run in waiting:
        each.append(pace * sum(count for key, count in _steps(run).items() if key not in trained))
        trained.update(run.stages)
    return max([sum(each) / slots, *each], default=0.0)


def _steps(run: Run) -> dict[str, int]:
    """Number of steps of each stage, by stage key."""
    return {key: stage.epochs * stage.iters for key, stage in zip(run.stages, run.config.experiment.stages)}
