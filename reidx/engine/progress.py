"""What a person sees while a run works: bars in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Mode = Literal["rich", "plain", "quiet"]


class Reporter:
    """Shows running work. ``rich``: bars; ``plain``: a line a message, for logs; ``quiet``: nothing."""

    def __init__(self, mode: Mode | None = None) -> None:
        self.console = Console(stderr=True)
        self.mode: Mode = mode or ("rich" if self.console.is_terminal else "plain")
        self._bars: Progress | None = None

    def say(self, text: str) -> None:
        """One line that stays."""
        if self.mode == "quiet":
            return
        if self.mode == "rich":
            (self._bars.console if self._bars else self.console).print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def work(self, what: str, total: int) -> Iterator[Work]:
        """A piece of work of ``total`` units; call :meth:`Work.advance` as it goes on."""
        if self.mode != "rich":
            yield Work(self, what, total)
            return
        if self._bars is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim"),
            )
            self._bars = Progress(*columns, console=self.console, transient=True)
            self._bars.start()
            outermost = True
        else:
            outermost = False
        task = self._bars.add_task(what, total=total, note="")
        try:
            yield Work(self, what, total, task)
        finally:
            self._bars.remove_task(task)
            if outermost:
                self._bars.stop()
                self._bars = None


class Work:
    """A running piece of work."""

    def __init__(self, reporter: Reporter, what: str, total: int, task: object | None = None) -> None:
        self.reporter, self.what, self.total, self.task = reporter, what, total, task
        self.done = 0
        self.started = time.monotonic()

    def advance(self, units: int = 1, note: str = "") -> None:
        """``units`` more are done; ``note`` is shown beside the bar."""
        self.done += units
        if self.task is not None and self.reporter._bars is not None:
            self.reporter._bars.update(self.task, advance=units, note=note)  # type: ignore[arg-type]

    @property
    def rate(self) -> float:
        """Units per second so far."""
        return self.done / max(time.monotonic() - self.started, 1e-9)
