"""What the user is told when something is wrong: one message, no traceback."""

import difflib
import errno
import itertools
from collections.abc import Iterable, Sequence

LONGEST = 4_000
"""Characters of a message: what was given may be a name of megabytes."""


MOST_NAMES = 2_000
"""Names among which a misspelt one is looked for."""

ALIKE = 0.65
"""Share of common characters from which on two names may be meant for each other: ``esp`` and ``eps`` have two thirds."""

NEAR_TIE = 0.06
"""Difference to the best share up to which another name is suggested too."""


def excerpt(text: str, width: int = 200) -> str:
    """``text`` for a message: what is longer than ``width`` characters is cut in its middle, and its length said."""
    if len(text) <= width:
        return text
    return f"{text[: width // 2]} … {text[-width // 4 :]} ({len(text):,} characters)"


def suggest(name: str, known: Iterable[str]) -> str:
    """The question "Did you mean …?" with up to three of the ``known`` names; empty where none of them is close."""
    return did_you_mean(closest(name, known))


def did_you_mean(names: Sequence[str]) -> str:
    """The question for up to three names; empty for none."""
    return f"Did you mean {' or '.join(map(excerpt, names[:3]))}?" if names else ""


def closest(name: str, known: Iterable[str]) -> list[str]:
    """Those of the ``known`` names that may be meant by ``name``, the closest first.

    A name that differs in case alone, or before its last dot, is closest (``dbscan``, ``FusionModule``). Otherwise the
    spelling decides, by the share of characters that two names have in common.
    """
    names = list(itertools.islice(dict.fromkeys(known), MOST_NAMES))
    wanted = name.casefold()
    for form in (str.casefold, _last_part):
        if same := [candidate for candidate in names if form(candidate) == form(name)]:
            return same
    ratios = {c: difflib.SequenceMatcher(None, c.casefold(), wanted) for c in names}
    close = {c: m.ratio() for c, m in ratios.items() if m.real_quick_ratio() >= ALIKE and m.quick_ratio() >= ALIKE}
    best = max(close.values(), default=0.0)
    near = (candidate for candidate, ratio in close.items() if ratio >= max(ALIKE, best - NEAR_TIE))
    return sorted(near, key=lambda candidate: -close[candidate])


def _last_part(name: str) -> str:
    return name.rpartition(".")[2].casefold()


class ReidxError(Exception):
    """A mistake in what was given (config, data, plugin, file); its message says what, where and what to do.

    The command line prints the message alone (the traceback only under ``--debug``) and exits with 1.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(excerpt(str(message), LONGEST))


class ConfigError(ReidxError):
    """The experiment's configuration is wrong: unknown key, wrong type, parts that do not fit each other."""


class DataError(ReidxError):
    """A data set is missing, empty, corrupt or cannot be evaluated as asked."""


class PluginError(ReidxError):
    """A plugin could not be found, loaded or used."""


class CheckpointError(ReidxError):
    """A checkpoint is missing, damaged, of another shape, or belongs to another run."""


class RunError(ReidxError):
    """A run broke though what was given is in order: memory, disk, a worker process, a loss that is no number."""


class Terminated(SystemExit):
    """The process was asked to end (SIGTERM) in the middle of a run; left alone, it exits with 143."""

    def __init__(self, message: str) -> None:
        super().__init__(143)
        self.message = message


class Exits(RuntimeError):
    """Some code ended the program (``sys.exit``) where it has to come back with a result."""


def told_elsewhere(error: BaseException) -> bool:
    """Whether another process of the job has told this error (see :func:`reidx.machine.launchers.started`)."""
    return bool(vars(error).get("told_elsewhere"))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out: Python's or NumPy's, torch's on any device, or the kernel's."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # by name, as torch is not imported for it; its CPU allocator and CUDA's libraries raise plain RuntimeErrors
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY))


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an :class:`OSError` for a disk that takes no more."""

PEER_GONE = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
"""Signs, in a :class:`RuntimeError`, of another process of the job that can no longer be reached."""

_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "StandardGpuResources: alloc fail")


class Broken(Exception):
    """A component did not keep a promise; the message says which. Raised inside of :func:`reidx.registry.seam.call`,
    which says whose it was."""
