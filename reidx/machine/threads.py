"""How many threads compute, and how they wait: what this process may use, less what others use of it.

Threads that spin while they wait (the default of OpenMP) take from each other what they wait for, as soon as there is other
work on the machine: a step is then ten to fifty times slower. So they spin briefly, and there are no more of them than
cores that are free. Another number of threads adds up in another order, so the card and the log say how many there were.
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
"""A number of threads; ``auto``: as many as cores are free; None: as many as torch has."""

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how threads wait; each is read when the library that it is for is loaded."""

NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user says how many threads there are."""

LOOK = 0.25
"""Seconds for which the load is looked at, at the least."""


SPINS = 5000
"""How often a thread of OpenMP looks for work before it sleeps: some 50 µs, where GNU's default is some ms. Threads that
sleep at once make half the steps on an idle machine; threads that spin for ms take the cores of those they wait for."""


def wait_briefly() -> None:
    """Have OpenMP's threads spin briefly and then sleep while they wait, unless the user has said how; before torch is
    imported."""
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def cores() -> set[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def available(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """How many cores' time this process may take: those it may run on, and no more than its cgroups' quota rounded up."""
    allowed = len(cores())
    for quota in _quotas(root, membership):
        allowed = min(allowed, max(1, math.ceil(quota)))
    return allowed


def _quotas(root: Path, membership: Path) -> list[float]:
    """The quotas, in cores, of the control groups that this process is in (of both versions, and of those above them)."""
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
class Look:
    """A look at the clock: seconds that passed, that the process's cores were busy, that it was busy itself."""

    passed: float
    busy: float
    own: float


def look(stat: Path = Path("/proc/stat")) -> Look | None:
    """The sums since the machine started; None where the system does not tell."""
    mine, busy = {f"cpu{number}" for number in cores()}, 0.0
    rows = [line.split() for line in _text(stat).splitlines()]
    times = [list(map(int, row[1:9])) for row in rows if row and row[0] in mine]
    if not times:
        return None
    for user, nice, system, _, _, *rest in times:  # not idle, nor waiting for a disk
        busy += user + nice + system + sum(rest)
    spent = os.times()
    own = spent.user + spent.system + spent.children_user + spent.children_system
    return Look(time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), own)


_at_start = look()


def others(since: Look | None = None) -> float | None:
    """How many of its cores others have kept busy since a look (by default since this module was imported); None where
    the system does not tell. Waits until :data:`LOOK` seconds have passed."""
    before = since or _at_start
    if before is None:
        return None
    time.sleep(max(0.0, LOOK - (time.monotonic() - before.passed)))
    now = look()
    if now is None:
        return None
    seconds = now.passed - before.passed
    return max(0.0, (now.busy - before.busy) - (now.own - before.own)) / seconds


def fitting(taken: float | None) -> int:
    """The number of threads beside others who keep so many cores busy: the cores that are free, one at the least."""
    return max(1, min(available(), round(len(cores()) - (taken or 0.0))))


def left_open(asked: Threads, alone: bool = True) -> bool:
    """Whether nobody has said how many threads there are, so that the load decides; ``alone`` as in :func:`chosen`."""
    return asked == "auto" and alone and not any(name in os.environ for name in NUMBER)


def chosen(asked: Threads, kept: int | None, say: Callable[[str], object], alone: bool = True) -> int:
    """The number of threads that a run computes on: ``asked``, else that it was begun with (``kept``), else what fits the
    machine. ``alone`` is whether no other process of the same job shares it; ``say`` gets a line where it is not plain."""

    if isinstance(asked, int):
        return asked
    if not left_open(asked, alone):
        return kept or number_of_threads()
    taken = others()
    best = fitting(taken)
    if kept is not None:
        if kept != best:
            say(f"{_named(kept)}, as the run was begun with{_beside(taken)}; {_other(best)}")
        return kept
    if best < len(cores()):
        say(f"{_named(best)}{_beside(taken)} (--threads N for another number)")
    return best


def number_of_threads() -> int:
    """How many threads torch computes on."""
    import torch

    return torch.get_num_threads()


@contextmanager
def computing_on(number: int) -> Iterator[None]:
    """Context in which torch computes on so many threads."""
    import torch

    before = number_of_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Watch:
    """Chooses at the end of each epoch how many threads compute in the next one, by what others took in the last.

    The choice is committed with the epoch: a resumed run computes on as many threads as if it had never been stopped.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say, self.before = say, look()

    def __call__(self) -> int:
        """The number of threads for the next epoch; the present one where the last was too short to tell."""
        now, number = look(), number_of_threads()
        if self.before is None or now is None or now.passed - self.before.passed < LOOK:
            return number
        taken = others(self.before)
        self.before, best = now, fitting(taken)
        if best != number:
            self.say(f"{_named(best)} from the next epoch on, not {number}{_beside(taken)} (--threads N for a fixed number)")
        return best


def _named(number: int) -> str:
    return f"{number} thread{'s' * (number != 1)}"


def _beside(taken: float | None) -> str:
    quota = f", of {available()} that may be taken" if available() < len(cores()) else ""
    return "" if taken is None else f": other work keeps {taken:.1f} of {len(cores())} cores busy{quota}"


def _other(best: int) -> str:
    return f"{best} would be faster now, but round differently: --resume --threads {best}"
