"""Measure work in separate processes: seconds, peak memory and result; or several contenders in turns."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple


class Measured(NamedTuple):
    """Wall time in `seconds`, peak resident memory in `megabytes` above that before the work, and the `result`."""

    seconds: float
    megabytes: float
    result: Any


def measured(prepare: Callable[..., Callable[[], Any]], *arguments: Any, repeats: int = 1) -> Measured:
    """Measure the work that `prepare(*arguments)` returns after loading and warming up; the best of `repeats`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return Measured(*pool.apply(_measure, (prepare, arguments, repeats)))


def _measure(
    prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], repeats: int
) -> tuple[float, float, Any]:
    work = prepare(*arguments)
    before = _resident("VmRSS")
    _forget_peak()
    seconds, result = float("inf"), None
    for _ in range(repeats):
        result = None
        start = time.perf_counter()
        result = work()
        seconds = min(seconds, time.perf_counter() - start)
    return seconds, _resident("VmHWM") - before, result


def _resident(name: str) -> float:
    """Return megabytes from /proc; without /proc, the peak of the process's lifetime."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _forget_peak() -> None:
    """Reset the kernel's record of the peak."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as switch:
            switch.write("5")
    except OSError:
        print("note: the peak includes the preparation", file=sys.stderr)


class Turns(NamedTuple):
    """Wall time of each round in `seconds`, and a contender's peak memory in `megabytes`.

    The memory is the resident memory of the process plus that of its largest worker, or that of tensors on its GPU.
    """

    seconds: list[float]
    megabytes: float


def in_turns(contenders: Sequence[Callable[..., None]], rounds: int, *arguments: Any) -> list[Turns]:
    """Return the rounds of each contender; all are alive at once, but only one works at a time.

    A contender gets the arguments and ``turn``. It calls ``turn(None)`` when it is ready, then ``turn(seconds)`` after each
    round; both calls return when its next round may start.
    """
    spawn = multiprocessing.get_context("spawn")
    links, processes = [], []
    for contender in contenders:
        mine, theirs = spawn.Pipe()
        # not daemonic: a contender may have worker processes
        processes.append(spawn.Process(target=_contend, args=(contender, theirs, arguments)))
        processes[-1].start()
        theirs.close()  # otherwise the death of a contender would go unnoticed
        links.append(mine)
        mine.recv()  # contenders also warm up one after the other
    seconds: list[list[float]] = [[] for _ in links]
    for _ in range(rounds):
        for link, times in zip(links, seconds):
            link.send(None)
            times.append(link.recv())
    megabytes = []
    for link, process in zip(links, processes):
        link.send(None)
        megabytes.append(link.recv())
        process.join()
    return [Turns(*both) for both in zip(seconds, megabytes)]


def _contend(contender: Callable[..., None], link: Connection, arguments: tuple[Any, ...]) -> None:
    def turn(seconds: float | None) -> None:
        link.send(seconds)
        link.recv()

    contender(*arguments, turn)
    link.send(_peak())


def _peak() -> float:
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / (1 << 20)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return _resident("VmHWM") + workers / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def machine(device: str = "cpu") -> str:
    """Describe the processor and its threads, or the GPU, for the head of a table."""
    import torch

    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        names = [
            l.split(":")[1].strip()
            for l in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if "model name" in l
        ]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
