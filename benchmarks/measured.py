"""Run one piece of work in a process of its own: seconds, the growth of its memory at the peak, and what it returns."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Measured(NamedTuple):
    """`seconds` of wall time, `megabytes` of resident memory above what the process held before, and the `result`."""

    seconds: float
    megabytes: float
    result: Any


def measured(prepare: Callable[..., Callable[[], Any]], *arguments: Any, repeats: int = 1) -> Measured:
    """`prepare(*arguments)` loads, warms up and returns the work; only the work is measured, best of `repeats`."""
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
    """Megabytes by /proc; elsewhere the peak of the process's whole life."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _forget_peak() -> None:
    """Start the kernel's record of the peak anew."""
    try:
        with open("/proc/self/clear_refs", "w") as switch:
            switch.write("5")
    except OSError:
        print("note: the peak includes the preparation", file=sys.stderr)


def machine() -> str:
    """The processor and its threads, for the head of a table."""
    import torch

    name = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        names = [
            l.split(":")[1].strip()
            for l in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in l
        ]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
