"""What ends a run from outside of it (SIGTERM, memory, disk, a dead worker process), told as one message with its place."""

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
"""Seconds after a SIGTERM in which another one is taken for the same."""

GO_ON = "Then go on with --resume, or with --resume-anyway where the config had to change."

GONE = "its folder is gone (deleted, moved or unmounted). Put it back and go on with --resume, or start anew."

DIVERGED = (
    "Lower the learning rate, clip gradients (clip_grad) or use precision: fp32, and go on from the last saved epoch with "
    "--resume-anyway; --resume alone would come to the same."
)


@contextlib.contextmanager
def error_context(what: str) -> Iterator[None]:
    """Context of a part of a run, also as a decorator: an exception on its way out notes that it came from there."""
    try:
        yield
    except BaseException as error:
        vars(error).setdefault("places", []).insert(0, what)
        raise


def where(error: BaseException) -> str:
    """The parts of a run (see :func:`during`) that an exception has come through, from the outside in; may be empty."""
    places: list[str] = []
    link: BaseException | None = error
    while link is not None:
        places += vars(link).get("places", [])
        link = link.__cause__
    return ", ".join(places)


@contextlib.contextmanager
def failure_guard(folder: Path) -> Iterator[None]:
    """Context of a run in ``folder``: whatever ends it is told with its place in the run.

    Raises :class:`Terminated`, after a line on stderr, when the process receives SIGTERM (in the main thread, unless the
    program listens to it itself), and :class:`RunError` where memory, disk or a worker process failed. Every other error
    passes as it is, with a note of the place.
    """
    with _listening() as asked:
        try:
            yield
        except BaseException as error:
            place = where(error)
            # whatever else the signal led to on the way out, as when data workers received it too
            if asked:
                raise _terminated(place, folder) from None
            if not isinstance(error, Exception):
                raise
            reason = _reason(error, folder)
            if reason is not None:
                raise RunError(f"{place}: {reason}" if place else reason) from error
            if place:
                # what add_note does, which Python 3.10 has not
                note = f"This was in {place}; epochs that are saved are kept: go on with --resume."
                vars(error).setdefault("__notes__", []).append(note)
            raise


@contextlib.contextmanager
def oom_advice(advice: str | Callable[[], str]) -> Iterator[None]:
    """Context of work whose need of memory hangs on settings: running out of it is a :class:`RunError` with ``advice``."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        said = advice if isinstance(advice, str) else advice()
        raise RunError(f"{_memory(error)} {said} {GO_ON}") from error


def _reason(error: Exception, folder: Path) -> str | None:
    """What the machine did, and what to do; None for an error of another kind."""
    if isinstance(error, RunError):
        return str(error)
    if isinstance(error, FileNotFoundError) and folder in Path(str(error.filename)).parents:
        return f"{error.filename} cannot be written: {GONE}"
    if out_of_memory(error):
        return f"{_memory(error)} Lower data.image_size, data.cache_gb or data.workers. {GO_ON}"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        place = error.filename or "a file"
        return f"{place} cannot be written: {error.strerror}. Make room and go on with --resume."
    if isinstance(error, BrokenExecutor) or (isinstance(error, RuntimeError) and "DataLoader worker" in str(error)):
        return (
            f"a process that reads or makes images died ({_line(error)}). If the machine ran out of memory, lower "
            f"data.workers or data.cache_gb. {GO_ON}"
        )
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in PEER_GONE):
        return (
            "another process of this job ended, or can no longer be reached; what it said itself is the cause. Start all "
            "processes again with --resume."
        )
    if isinstance(error, ConnectionError):  # the command line takes a broken pipe for a reader of its output gone away
        return f"another process closed its connection ({_line(error)}). Go on with --resume."
    return None


def _memory(error: Exception) -> str:
    kind = "GPU memory" if "CUDA" in str(error) or "HIP" in str(error) else "memory"
    said = _line(error)
    return f"out of {kind}{f' ({said})' if said else ''}."


def _line(error: Exception) -> str:
    """What an error says, in one line of reasonable length."""
    lines = str(error).strip().splitlines() or [""]
    # a DataLoader puts the whole traceback of its worker before the message
    line = lines[-1] if lines[0].startswith("Caught ") else lines[0]
    return line[:200].strip().rstrip(".")


def _terminated(place: str, folder: Path) -> Terminated:
    message = f"terminated (SIGTERM){f' in {place}' if place else ''}; epochs saved in {folder} are kept: go on with --resume"
    if os.environ.get("RANK", "0") == "0":  # one of all processes speaks
        with contextlib.suppress(OSError, ValueError):  # who would have read it may have ended first
            print(message, file=sys.stderr, flush=True)
    return Terminated(message)


@contextlib.contextmanager
def _listening() -> Iterator[list[float]]:
    """SIGTERM raises inside; the list holds when. Nothing is changed for a program that handles it itself."""
    asked: list[float] = []
    mine = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() != mine:  # a forked worker process has inherited this
            os._exit(128 + number)
        # launchers send it twice, which must not break the way out; a later one is for a first that a destructor swallowed
        if not asked or time.monotonic() - asked[-1] > PATIENCE:
            asked.append(time.monotonic())
            raise Terminated("")

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield asked
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
