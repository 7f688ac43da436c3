"""Inspection of a data set: its loader records the faults of single files and lines instead of refusing the first one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from reidx.errors import DataError


class Fault(NamedTuple):
    """A file (or the location of a line) that a loader refuses, and the message."""

    place: str
    message: str


_FAULTS: ContextVar[list[Fault] | None] = ContextVar("faults", default=None)


@contextmanager
def inspection() -> Iterator[list[Fault]]:
    """Collect the faults of the data sets that are read in this context, which leave out the files and write nothing."""
    faults: list[Fault] = []
    token = _FAULTS.set(faults)
    try:
        yield faults
    finally:
        _FAULTS.reset(token)


def inspecting() -> bool:
    """Return True within :func:`inspection`."""
    return _FAULTS.get() is not None


class file_or_line:
    """Context of one file or line: a :class:`DataError` in it is recorded within :func:`inspection`, and raised otherwise.

    The rest of the context is skipped, so a row that is added at its end is left out.
    """

    def __init__(self, place: object) -> None:
        self.place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        faults = _FAULTS.get()
        if faults is None or not isinstance(error, DataError):
            return False
        faults.append(Fault(str(self.place), str(error)))
        return True
