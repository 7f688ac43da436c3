"""Child processes that end with their parent, and removal of unfinished files and folders."""

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
"""Environment variable with the id of the process that a run must end with."""

EVERY = 0.5
"""Seconds between checks of the parent, if the kernel does not signal its end."""

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with(parent: int, by: int = signal.SIGKILL) -> None:
    """End this process by the signal ``by`` as soon as its parent (the process ``parent``) has ended.

    Call it in the child process as early as possible: a killed parent cannot notify its children.
    """
    if sys.platform == "linux":  # the kernel's signal also interrupts code deep in a library
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, by)
    else:
        threading.Thread(target=_watch, args=(parent, by), daemon=True).start()
    if os.getppid() != parent:  # it ended before the signal was set up
        os.kill(os.getpid(), by)


def _watch(parent: int, by: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    os.kill(os.getpid(), by)


@contextlib.contextmanager
def replacement_folder(folder: Path) -> Iterator[Path]:
    """Context with a temporary folder next to ``folder``; the caller renames it to ``folder`` once it is complete.

    An unfinished folder is removed; if this process is killed, the next writer of ``folder`` removes it. A lock on the folder
    shows that its writer is alive; on file systems without locks, folders left by others are not touched.
    """
    for left in folder.parent.glob(f".{_escaped(folder.name)}.*.partial"):
        _remove_abandoned(left)
    while True:
        path = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        path.mkdir(parents=True)
        holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):
            fcntl.flock(holder, fcntl.LOCK_EX)
        if path.exists():  # else another process removed it as abandoned before it was locked
            break
        os.close(holder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(holder)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary folder of a dead process."""
    try:
        holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:  # its writer is alive, or that cannot be determined
        pass
    finally:
        os.close(holder)


def remove_partial_files(folder: Path, *patterns: str) -> None:
    """Remove files matching ``patterns`` that a killed process left in ``folder``; no other process may write there."""
    for left in [path for pattern in patterns for path in folder.glob(pattern)]:
        with contextlib.suppress(OSError):
            if left.is_file() and not left.is_symlink():
                left.unlink()


def _escaped(name: str) -> str:
    """Escape a name for use in a glob pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
