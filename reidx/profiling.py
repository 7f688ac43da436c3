"""Named spans of a run's work, told to whoever measures it: a :class:`Stopwatch` that adds them up, or marks in a trace."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Protocol

import torch
from torch.profiler import record_function

Path = tuple[str, ...]
"""Where time goes: the names of the spans around it, outermost first."""


class Listener(Protocol):
    """What is told of spans: :meth:`enter` when one begins, :meth:`leave` when the innermost one ends."""

    def enter(self, name: str, images: int) -> None:
        """The span ``name`` begins."""

    def leave(self) -> None:
        """The innermost span ends."""


_listeners: list[Listener] = []


class span(ContextDecorator):
    """Context, or decorator, that names what is done inside; ``images`` says of how many images that is.

    Nobody listens in ordinary training, and then it costs nothing that could be measured.
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
def heard(listener: Listener) -> Iterator[None]:
    """Context in which ``listener`` is told of all spans; opened and closed outside of spans."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Marks:
    """Shows the spans in the trace of a torch profiler."""

    def __init__(self) -> None:
        self._open: list[record_function] = []

    def enter(self, name: str, images: int) -> None:
        """The span ``name`` begins."""
        self._open.append(record_function(name))
        self._open[-1].__enter__()

    def leave(self) -> None:
        """The innermost span ends."""
        self._open.pop().__exit__(None, None, None)


class Stopwatch:
    """Times the spans inside it: ``own`` seconds by path, those of spans further in not counted again.

    The seconds of all paths, that of no span (``()``) among them, are the time that it was open as a context. ``calls``
    and ``images`` are counted by path too. On an accelerator the queued work is waited for at every edge of a span, so
    that a span is charged with what it started.
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
        self._heard = heard(self)
        self._heard.__enter__()
        self._edge = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        self._charge()
        self._heard.__exit__(None, None, None)

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
