"""Displays of running work: bars in a terminal, lines in a log, JSON events, or nothing."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from reidx.reporting.forecast import Forecast
from reidx.runs.epoch_log import json_line

Mode = Literal["rich", "plain", "json", "quiet"]

Facts = dict[str, float]


class Work:
    """A task under way, with its progress in units."""

    def __init__(self, what: str, total: int, unit: str, display: Display) -> None:
        self.what, self.total, self.unit, self.display = what, total, unit, display
        self.done = 0
        self.started = self.shown = time.monotonic()
        self.facts: Facts = {}

    def advance(self, units: int = 1, facts: Callable[[], Facts] | None = None) -> None:
        """Record ``units`` more as done; ``facts`` is evaluated only when the display is refreshed."""
        self.done += units
        self.display.tick(self)
        if time.monotonic() - self.shown >= self.display.every:
            self.shown = time.monotonic()
            own = {"images_per_second": self.rate} if self.unit == "images" else {}
            self.facts = {**own, **(facts() if facts else {})}
            self.display.show(self)

    @property
    def seconds(self) -> float:
        """Elapsed time in seconds."""
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        """Units per second so far."""
        return self.done / self.seconds

    @property
    def left(self) -> float:
        """Remaining time in seconds at the current rate."""
        return (self.total - self.done) / self.rate if self.done else math.inf


class Stderr(io.TextIOBase):
    """The current stderr as a file that ignores write errors.

    A closed pipe, a closed terminal or a full disk must not end a run of hours.
    """

    @property
    def _file(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # rich's proxy would recurse into this object

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # ValueError: closed in Python; AttributeError: None
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._file.flush()

    def isatty(self) -> bool:
        try:
            return bool(self._file.isatty())
        except (OSError, ValueError, AttributeError):
            return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._file, "encoding", None) or "utf-8"


class Display:
    """Base class of the displays; shows nothing itself (mode ``quiet``)."""

    every = math.inf
    """Seconds between two refreshes of a task."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stage: str | None = None
        self.epoch: int | None = None
        self.forecast = Forecast()

    def open(self) -> None:
        """Handle the start of an experiment."""

    def close(self) -> None:
        """Handle the end of the experiment, successful or not."""

    def handle_event(self, event: str, text: str | None, facts: Mapping[str, Any]) -> None:
        """Handle an event: ``text`` for a person (None: no text), ``facts`` for a program."""

    def begin(self, work: Work) -> None:
        """Handle the start of a task."""

    def tick(self, work: Work) -> None:
        """Handle progress of a task; called for every unit."""

    def show(self, work: Work) -> None:
        """Refresh the display of a task."""

    def end(self, work: Work) -> None:
        """Handle the end of a task, successful or not."""


class Lines(Display):
    """Lines for a log, each with date and time: one when a task begins, then one a minute while it runs."""

    every = 60.0

    def handle_event(self, event: str, text: str | None, facts: Mapping[str, Any]) -> None:
        if text is not None:
            self._print(text)

    def begin(self, work: Work) -> None:
        self._print(f"{work.what} ({work.total:,} {work.unit}) …")

    def show(self, work: Work) -> None:
        parts = [f"{work.what}: {work.done:,} of {work.total:,} {work.unit}, {duration(work.left)} left"]
        self._print(" · ".join([*parts, *described(work.facts), *remaining(self.forecast)]))

    def _print(self, text: str) -> None:
        print(timestamped(text), file=self.console.file, flush=True)


class Events(Display):
    """JSON events, one object per line, each with ``time``, ``event``, ``stage`` and ``epoch``.

    Events: ``run_start``, ``stage_start``, ``stage_skipped``, ``epoch_end``, ``evaluation``, ``run_end``, ``message``,
    ``warning`` (each Python warning once), and ``progress`` every 30 seconds in long tasks.
    """

    every = 30.0

    def open(self) -> None:
        self._showwarning, self._warned = warnings.showwarning, set[str]()
        warnings.showwarning = self._warn

    def close(self) -> None:
        warnings.showwarning = self._showwarning

    def handle_event(self, event: str, text: str | None, facts: Mapping[str, Any]) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        place = {"time": now, "event": event, "stage": self.stage, "epoch": self.epoch}
        print(json_line({**place, **facts}), file=self.console.file, flush=True)

    def show(self, work: Work) -> None:
        facts = {"what": work.what, "done": work.done, "total": work.total, "unit": work.unit, "values": work.facts}
        self.handle_event("progress", None, {**facts, **ahead(self.forecast)})

    def _warn(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if str(message) not in self._warned:  # Python repeats warnings whenever a library changes the filters
            self._warned.add(str(message))
            self.handle_event("warning", None, {"text": str(message), "category": category.__name__})


class Bars(Display):
    """A progress bar for the experiment and one per running task; bars vanish, lines stay."""

    every = 1.0

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress: Progress | None = None
        self.tasks: dict[int, TaskID] = {}
        self.run: TaskID | None = None

    def open(self) -> None:
        self.run = self._started().add_task("", total=self.forecast.steps or None, count="", left="", note="")
        self._show_run()

    def close(self) -> None:
        if self.run is not None and self.progress is not None:
            self.progress.remove_task(self.run)
        self.run = None
        self._stop_if_idle()

    def handle_event(self, event: str, text: str | None, facts: Mapping[str, Any]) -> None:
        if text is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._show_run()

    def begin(self, work: Work) -> None:
        bars = self._started()
        self.tasks[id(work)] = bars.add_task(work.what, total=work.total, count="", left="", note="")
        self.tick(work)

    def tick(self, work: Work) -> None:
        assert self.progress is not None
        count = f"{work.done:,}/{work.total:,} {work.unit}"
        self.progress.update(self.tasks[id(work)], completed=work.done, count=count)

    def show(self, work: Work) -> None:
        assert self.progress is not None
        left, note = f"{duration(work.left)} left", " · ".join(described(work.facts))
        self.progress.update(self.tasks[id(work)], left=left, note=note)
        self._show_run()

    def end(self, work: Work) -> None:
        assert self.progress is not None
        self.progress.remove_task(self.tasks.pop(id(work)))
        self._stop_if_idle()

    def _show_run(self) -> None:
        if self.run is None or self.progress is None:
            return
        steps, names = self.forecast.steps, list(self.forecast.stages)
        stage = f"stage {self.stage} ({names.index(self.stage) + 1} of {len(names)})" if self.stage in names else ""
        count = f"{self.forecast.steps_done:,}/{steps:,} steps" if steps else ""
        left = " ".join(remaining(self.forecast))
        self.progress.update(
            self.run, completed=self.forecast.steps_done, description=stage or "run", count=count, left=left
        )

    def _started(self) -> Progress:
        if self.progress is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None, table_column=Column(max_width=40)),  # shrinks before the texts do
                TextColumn("{task.fields[count]}", markup=False),
                TextColumn("{task.fields[left]}", style="cyan", markup=False),
            )
            terminal = self.console.is_terminal  # without one the bars would leave empty lines
            self.progress = _BarsAndNotes(*columns, console=self.console, transient=True, disable=not terminal)
            self.progress.start()
        return self.progress

    def _stop_if_idle(self) -> None:
        if self.progress is not None and self.run is None and not self.tasks:
            self.progress.stop()
            self.progress = None


class _BarsAndNotes(Progress):
    """Progress bars with the notes of their tasks below; on the same line, notes would leave no room for the bars."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(task.fields["note"], style="dim", no_wrap=True, overflow="ellipsis")


DISPLAYS: dict[Mode, type[Display]] = {"rich": Bars, "plain": Lines, "json": Events, "quiet": Display}


def described(facts: Mapping[str, float]) -> list[str]:
    """Format facts for a person: ``103 images/s``, ``523 clusters``, ``3.1 GB``, ``loss 1.203``."""
    forms = {"images_per_second": "{:.0f} images/s", "gpu_gb": "{:.1f} GB", "clusters": "{:.0f} clusters"}
    return [forms[name].format(v) if name in forms else f"{name} {v:.3f}" for name, v in facts.items()]


def ahead(forecast: Forecast) -> dict[str, Any]:
    """Remaining time of the run as facts for a program, or nothing.

    ``all_seen`` is true if every kind of work ahead has been measured.
    """
    left = forecast.seconds_left()
    return {} if left is None else {"run_seconds_left": round(left[0], 1), "all_seen": left[1]}


def remaining(forecast: Forecast) -> list[str]:
    """Remaining time of the run as text, or nothing: ``about 12 min left``; ``over`` if some work was never measured."""
    left = forecast.seconds_left()
    return [] if left is None else [f"{'about' if left[1] else 'over'} {duration(left[0])} left"]


def timestamped(text: str) -> str:
    """Prepend the local date and time: ``2026-11-30 23:41:02 epoch 3/8``."""
    return f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}"


def duration(seconds: float) -> str:
    """Format a duration: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
