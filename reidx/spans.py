"""Named spans of a run's work: marks in a profiler's trace, and what a :class:`Stopwatch` adds up."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from contextlib import ContextDecorator

import torch
from torch.profiler import record_function

Path = tuple[str, ...]
"""Where time goes: the names of the spans around it, outermost first."""


class span(ContextDecorator):
    """Context, or decorator, that names what is done inside; ``images`` says of how many images that is.

    Without a profiler or a stopwatch it costs some microseconds.
    """

    def __init__(self, name: str, images: int = 0) -> None:
        self.name, self.images = name, images

    def _recreate_cm(self) -> span:  # a decorated function may be called while it runs
        return span(self.name, self.images)

    def __enter__(self) -> span:
        self._mark = record_function(self.name)
        self._mark.__enter__()
        if _stopwatch is not None:
            _stopwatch.enter(self.name, self.images)
        return self

    def __exit__(self, *error: object) -> None:
        if _stopwatch is not None:
            _stopwatch.leave()
        self._mark.__exit__(*error)


class Stopwatch:
    """Context that times the spans inside it: ``own`` seconds by path, those of spans further in not counted again.

    The seconds of all paths, that of no span (``()``) among them, are the time that it was open. ``calls`` and ``images``
    are counted by path too. On an accelerator the queued work is waited for at every edge of a span, so that a span is
    charged with what it started. One is open at a time, and it is opened and closed outside of spans.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.own: dict[Path, float] = defaultdict(float)
        self.calls: Counter[Path] = Counter()
        self.images: Counter[Path] = Counter()
        self._path: Path = ()

    @property
    def seconds(self) -> float:
        """How long it was open."""
        return sum(self.own.values())

    def within(self, *path: str) -> float:
        """The seconds of a span with all that is further in."""
        return sum(seconds for at, seconds in self.own.items() if at[: len(path)] == path)

    def __enter__(self) -> Stopwatch:
        global _stopwatch
        _stopwatch = self
        self._edge = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        global _stopwatch
        self._charge()
        _stopwatch = None

    def enter(self, name: str, images: int) -> None:
        """The span ``name`` begins."""
        self._charge()
        self._path = (*self._path, name)
        self.calls[self._path] += 1
        self.images[self._path] += images

    def leave(self) -> None:
        """The innermost span ends."""
        self._charge()
        self._path = self._path[:-1]

    def _charge(self) -> None:
        now = self._now()
        self.own[self._path] += now - self._edge
        self._edge = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


_stopwatch: Stopwatch | None = None
