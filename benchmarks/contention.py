"""Training speed on a shared machine: images/s next to 0, 1, 2 and 4 busy processes, as a share of the best fixed setting.

    python -m benchmarks.contention [--busy 0 1 2 4] [--seconds 4] [--rounds 2]

A separate process measures each rate with training steps of OSNet x0.25. The settings are each fixed number of threads, with
torch's waiting or passive waiting; the number that reidx chooses (``reidx``); and the number for an idle machine, kept when
other processes start later (``started idle``). The settings take turns; a rate is the mean over the rounds. The busy processes
count, and end after a while or with this process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from reidx.machine import threads
from reidx.machine.lifetimes import end_with

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4], help="numbers of busy processes")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each rate")
    parser.add_argument("--work", metavar="SETTING", help=argparse.SUPPRESS)
    parser.add_argument("--spin", type=int, metavar="PARENT", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.spin is not None:
        _spin(chosen.spin)
    elif chosen.work is not None:
        print(_rate(chosen.work, chosen.seconds))
    else:
        _table(chosen.busy, chosen.seconds, chosen.rounds)


def _table(loads: list[int], seconds: float, rounds: int) -> None:
    cores = threads.available_cores()
    fixed = ["1", *(f"{number}{how}" for number in range(2, cores + 1) for how in ("", " passive"))]
    settings = [*fixed, "reidx", "started idle"]
    print(f"{cores} cores; images/s, and the share of the best fixed setting")
    print(f"{'busy':>6}" + "".join(f"{setting:>16}" for setting in settings), flush=True)
    for load in loads:
        rates = dict.fromkeys(settings, 0.0)
        with _busy(load):
            for _ in range(rounds):
                for setting in settings:
                    rates[setting] += _measured(setting, seconds) / rounds
        best = max(rates[setting] for setting in fixed)
        print(f"{load:>6}" + "".join(f"{rate:>9.1f} ({rate / best:4.0%})" for rate in rates.values()), flush=True)


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """Context in which a number of other processes keep cores busy."""
    program = [sys.executable, __file__, "--spin", str(os.getpid())]
    running = [subprocess.Popen(program) for _ in range(number)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _spin(parent: int, longest: float = 300.0) -> None:
    end_with(parent)
    until = time.monotonic() + longest
    while time.monotonic() < until:
        sum(range(100_000))


def _measured(setting: str, seconds: float) -> float:
    """Return the rate of a setting, measured in a separate process."""
    own = {name: value for name, value in os.environ.items() if name not in WAITING}
    number, _, how = setting.partition(" ")
    if number.isdecimal():
        own |= {"OMP_NUM_THREADS": number, **({"OMP_WAIT_POLICY": how} if how else {})}
    program = [sys.executable, __file__, "--work", setting, "--seconds", str(seconds)]
    return float(subprocess.run(program, env=own, check=True, capture_output=True, text=True).stdout)


def _rate(setting: str, seconds: float) -> float:
    """Return the images per second of training steps in this process."""
    if setting in ("reidx", "started idle"):
        threads.wait_briefly()
    import torch

    import reidx

    torch.manual_seed(0)
    if setting == "reidx":
        torch.set_num_threads(threads.choose_thread_count("auto", None, lambda text: print(text, file=sys.stderr)))
    elif setting == "started idle":
        torch.set_num_threads(threads.available_cores())
    model = reidx.build("backbone", {"type": "osnet.OSNet", "width": 0.25}).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    images = torch.randn(16, 3, 128, 64).to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    step()
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        step()
        done += len(images)
    return done / (time.monotonic() - begun)


if __name__ == "__main__":
    main()
