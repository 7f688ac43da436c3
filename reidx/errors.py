"""Errors with a message for the user, printed without a traceback, and helpers for messages."""

import difflib
import errno
import itertools
from collections.abc import Iterable, Sequence

LONGEST = 4_000
"""Maximum length of a message in characters, since user input may be megabytes long."""


MOST_NAMES = 2_000
"""Maximum number of names searched for a similar one."""

ALIKE = 0.65
"""Minimum share of common characters for a suggestion: ``esp`` and ``eps`` have two thirds."""

NEAR_TIE = 0.06
"""Maximum difference to the best share for a further suggestion."""


def excerpt(text: str, width: int = 200) -> str:
    """Shorten ``text`` to about ``width`` characters for a message: cuts the middle and appends the length."""
    if len(text) <= width:
        return text
    return f"{text[: width // 2]} … {text[-width // 4 :]} ({len(text):,} characters)"


def suggest(name: str, known: Iterable[str]) -> str:
    """Ask "Did you mean …?" with up to three of the ``known`` names; empty if none is similar."""
    return did_you_mean(closest(name, known))


def did_you_mean(names: Sequence[str]) -> str:
    """Ask "Did you mean …?" with up to three names; empty for no names."""
    return f"Did you mean {' or '.join(map(excerpt, names[:3]))}?" if names else ""


def closest(name: str, known: Iterable[str]) -> list[str]:
    """Return the ``known`` names similar to ``name``, the closest first.

    Names that differ only in case, or only before the last dot, are closest (``dbscan``, ``FusionModule``). Otherwise
    names are compared by the share of characters that they have in common.
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
    """An error in the user's input (config, data, plugin, file); its message names the fault, its place and a remedy.

    The command line prints the message alone (the traceback only under ``--debug``) and exits with 1.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(excerpt(str(message), LONGEST))


class ConfigError(ReidxError):
    """Invalid configuration: an unknown key, a wrong type, or components that do not fit each other."""


class DataError(ReidxError):
    """A data set is missing, empty or corrupt, or cannot be evaluated as requested."""


class PluginError(ReidxError):
    """A plugin could not be found, loaded or used."""


class CheckpointError(ReidxError):
    """A checkpoint is missing, damaged, of another shape, or belongs to another run."""


class RunError(ReidxError):
    """A run failed although its input is valid: out of memory, disk full, a dead worker process, a NaN loss."""


class Terminated(SystemExit):
    """The process received SIGTERM during a run; if not caught, it exits with 143."""

    def __init__(self, message: str) -> None:
        super().__init__(143)
        self.message = message


class Exits(RuntimeError):
    """Code called ``sys.exit`` where it must return a result."""


def reported_elsewhere(error: BaseException) -> bool:
    """Return True if another process of the job has reported this error.

    :func:`reidx.machine.launchers.job_membership` sets the mark.
    """
    return bool(vars(error).get("reported_elsewhere"))


def out_of_memory(error: BaseException) -> bool:
    """Return True if an exception means out of memory: in Python or NumPy, in torch on any device, or in the kernel."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # by name, to avoid importing torch; its CPU allocator and CUDA's libraries raise plain RuntimeErrors
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY))


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""``errno`` values of a full disk."""

PEER_GONE = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
"""Texts in a :class:`RuntimeError` which show that another process of the job cannot be reached."""

_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "StandardGpuResources: alloc fail")


class Broken(Exception):
    """A component violated its contract; the message says how. Raised inside :func:`reidx.registry.seam.call`, which adds
    the name of the component."""


def require(condition: bool, message: str) -> None:
    """Raise :class:`Broken` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise Broken(message)
