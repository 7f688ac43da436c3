"""What a person sees while a run works: bars in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Mode = Literal["rich", "plain", "quiet"]

SIGN_OF_LIFE = 60.0
"""Seconds after which a plain log is told again how far a piece of work is."""


class Reporter:
    """Shows running work on stderr. ``rich``: bars that vanish; ``plain``: lines, for logs; ``quiet``: nothing."""

    def __init__(self, mode: Mode | None = None) -> None:
        self.console = Console(stderr=True)
        self.mode: Mode = mode or ("rich" if self.console.is_terminal else "plain")
        self._bars: Progress | None = None

    def say(self, text: str) -> None:
        """One line that stays."""
        if self.mode == "rich":
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        elif self.mode == "plain":
            print(text, file=self.console.file, flush=True)

    @contextmanager
    def work(self, what: str, total: int, unit: str = "images") -> Iterator[Work]:
        """A piece of work of ``total`` units, called ``what``; call :meth:`Work.advance` as it goes on."""
        work = Work(what, total, unit)
        if self.mode == "plain":
            self.say(f"{what} ({total:,} {unit}) …")
            work.tell = self.say
        if self.mode != "rich":
            yield work
            return
        with self._shown() as bars:
            task = bars.add_task(what, total=total, note="")
            work.tell_bar = lambda units, note: bars.update(task, advance=units, note=note)
            try:
                yield work
            finally:
                bars.remove_task(task)

    @contextmanager
    def counted(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A piece of work that tells itself ``progress(done, total)``; nothing is shown until it does."""
        with ExitStack() as open_work:
            works: list[Work] = []

            def progress(done: int, total: int) -> None:
                if not works:
                    works.append(open_work.enter_context(self.work(what, total)))
                works[0].advance(done - works[0].done)

            yield progress

    @contextmanager
    def _shown(self) -> Iterator[Progress]:
        """The bars, which vanish with the outermost piece of work."""
        if self._bars is not None:
            yield self._bars
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        terminal = self.console.is_terminal  # without one the bars would leave empty lines
        with Progress(*columns, console=self.console, transient=True, disable=not terminal) as bars:
            self._bars = bars
            try:
                yield bars
            finally:
                self._bars = None


class Work:
    """A running piece of work."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.started = self.told = time.monotonic()
        self.tell: Callable[[str], None] | None = None
        self.tell_bar: Callable[[int, str], None] | None = None

    def advance(self, units: int = 1, note: str = "") -> None:
        """``units`` more are done; ``note`` is shown beside the bar."""
        self.done += units
        if self.tell_bar is not None:
            self.tell_bar(units, note)
        elif self.tell is not None and time.monotonic() - self.told >= SIGN_OF_LIFE:
            self.told = time.monotonic()
            left = (self.total - self.done) / self.rate
            self.tell(f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {_duration(left)} left")

    @property
    def rate(self) -> float:
        """Units per second so far."""
        return self.done / max(time.monotonic() - self.started, 1e-9)


def _duration(seconds: float) -> str:
    """A time for a person: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
