"""Progress reports of a run, for a person, a log or a program."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console

from reidx import distributed
from reidx.config.schema import Stage
from reidx.profiling import span
from reidx.reporting.displays import DISPLAYS, Mode, Stderr, Work, ahead, remaining
from reidx.reporting.forecast import Forecast, Kind

Report = dict[str, float]

__all__ = ["Mode", "Reporter", "Timed", "Work"]


class Timed:
    """Elapsed time of a block, in seconds."""

    seconds = 0.0


class Reporter:
    """Reports the progress of a run on stderr.

    ``rich``: bars that vanish and lines that stay; ``plain``: lines, for logs; ``json``: events, for programs; ``quiet``:
    nothing. The default is ``rich`` in a terminal and ``plain`` elsewhere. Of several processes only the first one reports.
    Errors in writing to stderr are ignored.
    """

    def __init__(self, mode: Mode | None = None) -> None:
        console = Console(file=Stderr())  # type: ignore[arg-type]
        shown: Mode = mode or ("rich" if console.is_terminal else "plain")
        self.mode: Mode = shown if distributed.rank() == 0 else "quiet"
        self.display = DISPLAYS[self.mode](console)

    def message(self, text: str) -> None:
        """Print one line that stays."""
        self.display.handle_event("message", text, {"text": text})

    # ---- the run's position

    @contextmanager
    def experiment(self, stages: Sequence[Stage], **facts: Any) -> Iterator[None]:
        """Context manager around a whole run."""
        self.display.forecast = Forecast(stages)
        self.display.open()
        plan = [{"name": stage.name, "epochs": stage.epochs, "iters": stage.iters} for stage in stages]
        self.display.handle_event("run_start", None, {"stages": plan, **facts})
        try:
            with warnings.catch_warnings():
                if distributed.rank() > 0:
                    warnings.simplefilter("ignore")
                yield
        finally:
            self.display.close()

    def stage_starts(self, stage: Stage, done: Sequence[Report] | None = None) -> None:
        """Report the start of a stage, or that it is skipped; ``done`` is its history from an earlier session."""
        self.display.stage, self.display.epoch = stage.name, None
        if done is None:
            self.display.forecast.at(stage.name, -1)
            self.display.handle_event("stage_start", f"stage {stage.name}", {"epochs": stage.epochs, "iters": stage.iters})
        else:
            self.display.forecast.recall(stage.name, done)
            self.display.forecast.at(stage.name, stage.epochs)
            self.display.handle_event("stage_skipped", f"stage {stage.name}: finished earlier", {})

    def resumed(self, history: Sequence[Report]) -> None:
        """Record the epochs of the stage that an earlier session of the run has committed."""
        self.display.forecast.recall(self.display.stage, history)

    def epoch_starts(self, epoch: int) -> None:
        """Record the start of an epoch (from 0) of the stage."""
        self.display.epoch = epoch + 1
        self.display.forecast.at(self.display.stage, epoch)

    def epoch_ends(self, entry: Report, text: str) -> None:
        """Report a committed epoch: ``entry`` for a program, ``text`` for a person."""
        facts = {"entry": entry, "images_per_second": images_per_second(entry), **ahead(self.display.forecast)}
        self.display.handle_event("epoch_end", " · ".join([text, *remaining(self.display.forecast)]), facts)

    def evaluated(self, metrics: Report, text: str | None = None) -> None:
        """Report the metrics of an evaluation."""
        self.display.handle_event("evaluation", text, {"metrics": metrics})

    def run_ends(self, metrics: Report, seconds: float) -> None:
        """Report the end of the experiment."""
        self.display.stage = self.display.epoch = None
        self.display.handle_event("run_end", None, {"metrics": metrics, "seconds": seconds})

    # ---- its current work

    @contextmanager
    def timed(self, kind: Kind) -> Iterator[Timed]:
        """Time a part of an epoch, as a span named ``kind`` and as a measurement for the forecast."""
        timed, stage, forecast = Timed(), self.display.stage, self.display.forecast
        forecast.begin(stage, kind)
        started = time.perf_counter()
        with span(kind):
            yield timed
        timed.seconds = time.perf_counter() - started
        forecast.measured(stage, self._index, kind, timed.seconds)

    def stepped(self, seconds: float) -> None:
        """Record the time of a training step."""
        self.display.forecast.measured(self.display.stage, self._index, "step", seconds)

    @property
    def _index(self) -> int:
        return (self.display.epoch or 0) - 1

    @contextmanager
    def work(self, what: str, total: int, unit: str = "images") -> Iterator[Work]:
        """Show a task of ``total`` units, named ``what``; report its progress with :meth:`Work.advance`."""
        work = Work(what, total, unit, self.display)
        self.display.begin(work)
        try:
            yield work
        finally:
            self.display.end(work)

    @contextmanager
    def counted(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a task through a callback ``progress(done, total)``; nothing is shown before its first call."""
        with ExitStack() as open_work:
            works: list[Work] = []

            def progress(done: int, total: int) -> None:
                if not works:
                    works.append(open_work.enter_context(self.work(what, total)))
                works[0].advance(done - works[0].done)

            yield progress


def images_per_second(entry: Mapping[str, float]) -> float:
    """Training speed of an epoch in images per second."""
    return entry["images"] / max(entry["seconds_train"], 1e-9)
