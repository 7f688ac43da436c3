"""The number of compute threads, chosen by the load of the machine, and their waiting policy.

Threads that spin while they wait (the default of OpenMP) compete for cores as soon as there is other work on the machine: a
step is then ten to fifty times slower. So they spin only briefly, and there are no more of them than free cores. Sums round
differently with another number of threads, so the card and the log record the number.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Threads = int | Literal["auto"] | None
"""A number of threads; ``auto``: one per free core; None: torch's default."""

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables for the waiting policy of threads; each library reads its own when it is loaded."""

NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables for the number of threads."""

MIN_SAMPLE_SECONDS = 0.25
"""Minimum seconds over which the load is measured."""


SPINS = 5000
"""Number of spins of a waiting OpenMP thread before it sleeps: some 50 µs, where GNU's default is some ms. Threads that
sleep at once make half the steps on an idle machine; threads that spin for ms occupy the cores of those they wait for."""


def wait_briefly() -> None:
    """Make waiting OpenMP threads spin briefly, then sleep, unless the user has set a policy; call before importing torch."""
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def cores() -> set[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def available_cores(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of usable cores: those it may run on, at most the quota of its cgroups rounded up."""
    allowed = len(cores())
    for quota in _quotas(root, membership):
        allowed = min(allowed, max(1, math.ceil(quota)))
    return allowed


def _quotas(root: Path, membership: Path) -> list[float]:
    """Return the quotas, in cores, of the control groups (v1 and v2) of this process and of their parents."""
    found = []
    for line in _text(membership).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        folder = base / path.lstrip("/")
        for above in [folder, *folder.parents]:
            if above != base and base not in above.parents:
                break
            older = [_text(above / f"cpu.cfs_{what}_us").strip() for what in ("quota", "period")]
            words = _text(above / "cpu.max").split() or older
            if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
                found.append(int(words[0]) / int(words[1]))
    return [quota for quota in found if quota > 0]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class LoadSample:
    """A sample of the load, in seconds: wall time, busy time of the process's cores, busy time of the process."""

    passed: float
    busy: float
    own: float


def sample_load(stat: Path = Path("/proc/stat")) -> LoadSample | None:
    """Sample the totals since the machine started; None if the system does not report them."""
    mine, busy = {f"cpu{number}" for number in cores()}, 0.0
    rows = [line.split() for line in _text(stat).splitlines()]
    times = [list(map(int, row[1:9])) for row in rows if row and row[0] in mine]
    if not times:
        return None
    for user, nice, system, _, _, *rest in times:  # neither idle nor waiting for a disk
        busy += user + nice + system + sum(rest)
    spent = os.times()
    own = spent.user + spent.system + spent.children_user + spent.children_system
    return LoadSample(time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), own)


_at_start = sample_load()


def cores_busy_elsewhere(since: LoadSample | None = None) -> float | None:
    """Return the number of cores that other processes kept busy since a sample (default: import of this module).

    None if the system does not report it. Waits until :data:`MIN_SAMPLE_SECONDS` seconds have passed.
    """
    before = since or _at_start
    if before is None:
        return None
    time.sleep(max(0.0, MIN_SAMPLE_SECONDS - (time.monotonic() - before.passed)))
    now = sample_load()
    if now is None:
        return None
    seconds = now.passed - before.passed
    return max(0.0, (now.busy - before.busy) - (now.own - before.own)) / seconds


def free_core_count(busy: float | None) -> int:
    """Return the number of free cores, at least one, if other processes keep ``busy`` cores busy."""
    return max(1, min(available_cores(), round(len(cores()) - (busy or 0.0))))


def depends_on_load(requested: Threads, alone: bool = True) -> bool:
    """Return True if the user has not set the number of threads, so that the load decides.

    ``alone`` is True if no other process of the same job shares the machine.
    """
    return requested == "auto" and alone and not any(name in os.environ for name in NUMBER)


def choose_thread_count(requested: Threads, recorded: int | None, message: Callable[[str], object], alone: bool = True) -> int:
    """Choose the number of threads of a run: ``requested``, else ``recorded`` at its start, else the number of free cores.

    ``alone`` is True if no other process of the same job shares the machine; ``message`` receives a line if the choice needs
    an explanation.
    """
    if isinstance(requested, int):
        return requested
    if not depends_on_load(requested, alone):
        return recorded or number_of_threads()
    busy = cores_busy_elsewhere()
    best = free_core_count(busy)
    if recorded is not None:
        if recorded != best:
            message(f"{_thread_count_text(recorded)}, as the run was begun with{_load_text(busy)}; {_resume_advice(best)}")
        return recorded
    if best < len(cores()):
        message(f"{_thread_count_text(best)}{_load_text(busy)} (--threads N for another number)")
    return best


def number_of_threads() -> int:
    """Return the number of threads of torch."""
    import torch

    return torch.get_num_threads()


@contextmanager
def threads_set_to(number: int) -> Iterator[None]:
    """Context in which torch uses ``number`` threads."""
    import torch

    before = number_of_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadCountWatch:
    """Choice of the number of threads for the next epoch, from the load of other processes in the last one.

    The choice is committed with the epoch: a resumed run uses the same number of threads as an uninterrupted one.
    """

    def __init__(self, message: Callable[[str], object]) -> None:
        self.message, self.before = message, sample_load()

    def __call__(self) -> int:
        """Return the number of threads for the next epoch; unchanged if the last epoch was too short to measure."""
        now, number = sample_load(), number_of_threads()
        if self.before is None or now is None or now.passed - self.before.passed < MIN_SAMPLE_SECONDS:
            return number
        busy = cores_busy_elsewhere(self.before)
        self.before, best = now, free_core_count(busy)
        if best != number:
            change = f"{_thread_count_text(best)} from the next epoch on, not {number}"
            self.message(f"{change}{_load_text(busy)} (--threads N for a fixed number)")
        return best


def _thread_count_text(number: int) -> str:
    return f"{number} thread{'s' * (number != 1)}"


def _load_text(busy: float | None) -> str:
    quota = f", with a quota of {available_cores()}" if available_cores() < len(cores()) else ""
    return "" if busy is None else f": other work keeps {busy:.1f} of {len(cores())} cores busy{quota}"


def _resume_advice(best: int) -> str:
    return f"{best} would be faster now but would round differently: --resume --threads {best}"
