"""External failures of a run (SIGTERM, memory, disk, a dead worker process), each as one message with its location."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

from reidx.errors import NO_ROOM, PEER_GONE, RunError, Terminated, out_of_memory

PATIENCE = 5.0
"""Seconds after a SIGTERM in which a second one counts as the same."""

GO_ON = "Then continue with --resume, or with --resume-anyway if you changed the config."

GONE = "its folder is gone (deleted, moved or unmounted). Restore it and continue with --resume, or start a new run."

DIVERGED = (
    "Lower the learning rate, clip gradients (clip_grad) or use precision: fp32, and continue from the last saved epoch with "
    "--resume-anyway; --resume alone would fail in the same way."
)


@contextlib.contextmanager
def error_context(what: str) -> Iterator[None]:
    """Context manager and decorator that records ``what``, a part of a run, on exceptions passing through."""
    try:
        yield
    except BaseException as error:
        vars(error).setdefault("places", []).insert(0, what)
        raise


def where(error: BaseException) -> str:
    """Parts of a run (see :func:`error_context`) that an exception passed through, outermost first; may be empty."""
    places: list[str] = []
    link: BaseException | None = error
    while link is not None:
        places += vars(link).get("places", [])
        link = link.__cause__
    return ", ".join(places)


@contextlib.contextmanager
def failure_guard(folder: Path) -> Iterator[None]:
    """Context manager around a run in ``folder`` that adds the location within the run to every failure.

    Raises :class:`Terminated`, after a line on stderr, when the process receives SIGTERM (in the main thread, unless the
    program has its own handler), and :class:`RunError` for a failure of memory, disk or a worker process. Other exceptions
    propagate with a note of the location.
    """
    with _listening() as received:
        try:
            yield
        except BaseException as error:
            place = where(error)
            # takes precedence over errors that the signal caused elsewhere, in data workers for example
            if received:
                raise _terminated(place, folder) from None
            if not isinstance(error, Exception):
                raise
            reason = _reason(error, folder)
            if reason is not None:
                raise RunError(f"{place}: {reason}" if place else reason) from error
            if place:
                # add_note does the same, but Python 3.10 lacks it
                note = f"This happened in {place}. Saved epochs are kept: continue with --resume."
                vars(error).setdefault("__notes__", []).append(note)
            raise


@contextlib.contextmanager
def oom_advice(advice: str | Callable[[], str]) -> Iterator[None]:
    """Context manager that turns running out of memory into a :class:`RunError` with ``advice`` on the settings to change."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        text = advice if isinstance(advice, str) else advice()
        raise RunError(f"{_memory(error)} {text} {GO_ON}") from error


def _reason(error: Exception, folder: Path) -> str | None:
    """Message and remedy for a failure of the machine; None for any other error."""
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, FileNotFoundError) and folder in Path(str(error.filename)).parents:
        return f"{error.filename} cannot be written: {GONE}"
    if out_of_memory(error):
        return f"{_memory(error)} Lower data.image_size, data.cache_gb or data.workers. {GO_ON}"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        place = error.filename or "a file"
        return f"{place} cannot be written: {error.strerror}. Free some space and continue with --resume."
    if isinstance(error, BrokenExecutor) or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error)):
        return (
            f"a process that loads or renders images died ({_line(error)}). If the machine ran out of memory, lower "
            f"data.workers or data.cache_gb. {GO_ON}"
        )
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in PEER_GONE):
        return (
            "another process of this job ended or cannot be reached; its own output shows the cause. Restart all processes "
            "with --resume."
        )
    if isinstance(error, ConnectionError):  # otherwise the command line would treat a broken pipe as a closed stdout
        return f"another process closed its connection ({_line(error)}). Continue with --resume."
    return None


def _memory(error: Exception) -> str:
    kind = "GPU memory" if "CUDA" in str(error) or "HIP" in str(error) else "memory"
    detail = _line(error)
    return f"out of {kind}{f' ({detail})' if detail else ''}."


def _line(error: Exception) -> str:
    """The message of an error, in one line of at most 200 characters."""
    lines = str(error).strip().splitlines() or [""]
    # a DataLoader prepends its worker's traceback to the message
    line = lines[-1] if lines[0].startswith("Caught ") else lines[0]
    return line[:200].strip().rstrip(".")


def _terminated(place: str, folder: Path) -> Terminated:
    place = f" in {place}" if place else ""
    message = f"terminated (SIGTERM){place}; epochs saved in {folder} are kept: continue with --resume"
    if os.environ.get("RANK", "0") == "0":  # only the first process prints
        with contextlib.suppress(OSError, ValueError):  # the reader of stderr may have ended first
            print(message, file=sys.stderr, flush=True)
    return Terminated(message)


@contextlib.contextmanager
def _listening() -> Iterator[list[float]]:
    """Context manager in which SIGTERM raises :class:`Terminated`; yields the list of its times.

    A program's own handler stays in place.
    """
    received: list[float] = []
    mine = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() != mine:  # a forked worker process inherited this handler
            os._exit(128 + number)
        # launchers send it twice, and the second must not interrupt the clean-up; a later one counts again, because a
        # destructor may have swallowed the first exception
        if not received or time.monotonic() - received[-1] > PATIENCE:
            received.append(time.monotonic())
            raise Terminated("")

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield received
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
