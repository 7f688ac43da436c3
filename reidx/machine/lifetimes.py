"""What ends with the process that made it: its helpers, and the folders that it had not finished."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

PARENT = "REIDX_PARENT"
"""The variable that tells a run which process (its number) it is to end with."""

EVERY = 0.5
"""Seconds between two looks at the parent, where the kernel does not tell of its end."""

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with(parent: int, by: int = signal.SIGKILL) -> None:
    """Have this process ended, by the signal ``by``, as soon as its parent (the process ``parent``) has.

    To be called by the helper process itself, as early as possible: a process that is killed can tell its helpers nothing.
    """
    if sys.platform == "linux":  # the kernel's signal reaches also what is deep in a library's loop
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, by)
    else:
        threading.Thread(target=_watch, args=(parent, by), daemon=True).start()
    if os.getppid() != parent:  # it ended before there was anybody to notice
        os.kill(os.getpid(), by)


def _watch(parent: int, by: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.kill(os.getpid(), by)


@contextlib.contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """Context with a new folder beside ``folder`` to make its content in; whoever finishes renames it to ``folder``.

    Left unfinished it is removed, also by the next one who wants to make ``folder`` if this process is killed. A lock on the
    folder says that its maker lives; where the file system has none, what others left is not touched.
    """
    for left in folder.parent.glob(f".{_escaped(folder.name)}.*.partial"):
        _remove_abandoned(left)
    while True:
        path = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        path.mkdir(parents=True)
        holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):
            fcntl.flock(holder, fcntl.LOCK_EX)
        if path.exists():  # else another one took it for abandoned before it was locked
            break
        os.close(holder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(holder)


def _remove_abandoned(path: Path) -> None:
    """Remove a draft whose maker is gone."""
    try:
        holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:  # its maker lives, or nobody can tell
        pass
    finally:
        os.close(holder)


def remove_partial_files(folder: Path, *patterns: str) -> None:
    """Remove the files of such names in ``folder`` that a killed process had begun; nobody else may be writing there."""
    for left in [path for pattern in patterns for path in folder.glob(pattern)]:
        with contextlib.suppress(OSError):
            if left.is_file() and not left.is_symlink():
                left.unlink()


def _escaped(name: str) -> str:
    """A name as a pattern that means itself alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
