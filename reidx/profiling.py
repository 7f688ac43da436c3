"""Named spans of a run's work, measured by a :class:`Stopwatch` or shown as marks in a profiler trace."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Protocol

import torch
from torch.profiler import record_function

Path = tuple[str, ...]
"""Names of nested spans, outermost first."""


class Listener(Protocol):
    """Receiver of spans: :meth:`enter` is called when one begins, :meth:`leave` when the innermost one ends."""

    def enter(self, name: str, images: int) -> None:
        """Begin the span ``name``."""

    def leave(self) -> None:
        """End the innermost span."""


_listeners: list[Listener] = []


class span(ContextDecorator):
    """Context or decorator that names a piece of work; ``images`` is the number of images that it processes.

    In ordinary training there is no listener, and the cost is negligible.
    """

    def __init__(self, name: str, images: int = 0) -> None:
        self.name, self.images = name, images

    def __enter__(self) -> span:
        for listener in _listeners:
            listener.enter(self.name, self.images)
        return self

    def __exit__(self, *error: object) -> None:
        for listener in reversed(_listeners):
            listener.leave()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Context in which ``listener`` receives all spans; must be opened and closed outside spans."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Marks:
    """Listener that marks the spans in the trace of a torch profiler."""

    def __init__(self) -> None:
        self._open: list[record_function] = []

    def enter(self, name: str, images: int) -> None:
        """Begin the span ``name``."""
        self._open.append(record_function(name))
        self._open[-1].__enter__()

    def leave(self) -> None:
        """End the innermost span."""
        self._open.pop().__exit__(None, None, None)


class Stopwatch:
    """Timer of spans: ``own`` maps each path to its seconds, excluding inner spans.

    The seconds of all paths, including time outside spans (``()``), add up to the time that the stopwatch was open as a
    context. ``calls`` and ``images`` are counted by path too. On an accelerator the stopwatch waits for the queued work at
    every start and end of a span, so that each span is charged for the work that it started.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.own: dict[Path, float] = defaultdict(float)
        self.calls: Counter[Path] = Counter()
        self.images: Counter[Path] = Counter()
        self._path: Path = ()

    @property
    def seconds(self) -> float:
        """Seconds for which the stopwatch was open."""
        return sum(self.own.values())

    def within(self, *path: str) -> float:
        """Return the seconds of a span including its inner spans."""
        return sum(seconds for at, seconds in self.own.items() if at[: len(path)] == path)

    def __enter__(self) -> Stopwatch:
        self._heard = listening(self)
        self._heard.__enter__()
        self._edge = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        self._charge()
        self._heard.__exit__(None, None, None)

    def enter(self, name: str, images: int) -> None:
        """Begin the span ``name``."""
        self._charge()
        self._path = (*self._path, name)
        self.calls[self._path] += 1
        self.images[self._path] += images

    def leave(self) -> None:
        """End the innermost span."""
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
