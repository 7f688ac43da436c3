"""Lock files held by one process at a time, until it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from reidx.errors import ConfigError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Error numbers of file systems without locks."""

LOCK = ".lock"
"""Name of a folder's lock file."""

_held: set[int] = set()


class InUse(ConfigError):
    """Raised for a lock held by another process; ``holder`` is its number and machine."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


@contextlib.contextmanager
def locked(path: Path, wait: bool = False, message: Callable[[str], object] = lambda text: None) -> Iterator[IO[str]]:
    """Context manager that holds the lock file ``path`` exclusively; the file is created if missing and stays.

    The kernel releases the lock when the process ends for any reason. A program that inherits the open file (``pass_fds``)
    holds the lock too; a forked child does not. ``wait`` blocks until the lock is free. On a file system without locks,
    ``message`` receives a warning and no lock is taken.

    Raises:
        InUse: another process holds the lock, and ``wait`` is not set.
        OSError: the file cannot be opened, or is not a regular file.
    """
    with open(path, "a+", encoding="utf-8", errors="replace", opener=_open_regular) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                holder = _holder(file)
                raise InUse(f"{path} is held by {holder}", holder) from None
            if error.errno not in NO_LOCKS:
                raise
            message(f"{path.parent}: the file system has no locks. Make sure that no other process works in this folder.")
            yield file
            return
        _held.add(file.fileno())
        try:
            _note(file, f"process {os.getpid()} on {socket.gethostname()}")
            yield file
        finally:
            _note(file, "")
            _held.discard(file.fileno())


@contextlib.contextmanager
def exclusive_folder(folder: Path, work: str, message: Callable[[str], object] = lambda text: None) -> Iterator[IO[str]]:
    """Context manager that locks ``folder``, created if missing, for ``work`` ("being trained in").

    Raises :class:`InUse` with a message for the user, and :class:`OSError` as :func:`locked` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(locked(folder / LOCK, message=message))
        except InUse as error:
            refusal = f"{folder} is {work} ({error.holder}). Wait for it to end, stop it, or name another folder (--work-dir)."
            raise InUse(refusal, error.holder) from None
        yield file


def holder_of(folder: Path) -> str | None:
    """Return the process that holds the lock of ``folder``; None if there is none. Reads only.

    A process that was killed leaves its name in the file, so the lock itself is tried.
    """
    try:
        with open(folder / LOCK, encoding="utf-8", errors="replace") as file:
            holder = file.read(200).strip()
            try:
                if holder:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                return holder if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    except OSError:  # no lock file, or none that may be read
        pass
    return None


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file; raises :class:`OSError` for links, pipes and devices."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def _note(file: IO[str], text: str) -> None:
    """Write the holder of the lock into its file; errors are ignored."""
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(text)
        file.flush()


def _holder(file: IO[str]) -> str:
    with contextlib.suppress(OSError):
        file.seek(0)
        return file.read(200).strip() or "another process"
    return "another process"


def _release_all_locks() -> None:
    """Release all locks in a forked child, which could otherwise keep them after its parent has ended."""
    for descriptor in _held:
        with contextlib.suppress(OSError), open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), descriptor, inheritable=False)
    _held.clear()


os.register_at_fork(after_in_child=_release_all_locks)
