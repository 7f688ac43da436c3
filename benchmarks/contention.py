"""Training speed on a shared machine: images/s beside 0, 1, 2 and 4 busy processes, as a share of the best fixed setting.

    python benchmarks/contention.py [--beside 0 1 2 4] [--seconds 4]

Each rate is that of a process of its own that makes training steps of a small ResNet: with torch's own settings
(``default``), with each fixed number of threads, spinning or passive while they wait, and with those that reidx chooses
(``reidx``). The busy processes count, and end after a while by themselves or with this one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from reidx import threads
from reidx.lifetimes import end_with

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 1, 2, 4], help="numbers of busy processes")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each rate is measured")
    parser.add_argument("--work", metavar="SETTING", help=argparse.SUPPRESS)
    parser.add_argument("--spin", type=int, metavar="PARENT", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.spin is not None:
        _spin(chosen.spin)
    elif chosen.work is not None:
        print(_rate(chosen.work, chosen.seconds))
    else:
        _table(chosen.beside, chosen.seconds)


def _table(loads: list[int], seconds: float) -> None:
    cores = threads.available()
    fixed = ["1 active", *(f"{number} {how}" for number in range(2, cores + 1) for how in ("active", "passive"))]
    settings = ["default", *fixed, "reidx"]
    print(f"{cores} cores; images/s, and the share of the best fixed setting")
    print(f"{'busy':>6}" + "".join(f"{setting:>16}" for setting in settings) + f"{'reidx / best':>16}", flush=True)
    for load in loads:
        with _busy(load):
            rates = {setting: _measured(setting, seconds) for setting in settings}
        best = max(rates[setting] for setting in fixed)
        row = "".join(f"{rate:>9.1f} ({rate / best:4.0%})" for rate in rates.values())
        print(f"{load:>6}{row}{rates['reidx'] / best:>16.0%}", flush=True)


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """Context beside so many processes that do nothing but count."""
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
    """The rate of a setting in a process of its own."""
    own = {name: value for name, value in os.environ.items() if name not in WAITING}
    number, _, how = setting.partition(" ")
    if how:
        own |= {"OMP_NUM_THREADS": number, "OMP_WAIT_POLICY": how}
    program = [sys.executable, __file__, "--work", setting, "--seconds", str(seconds)]
    return float(subprocess.run(program, env=own, check=True, capture_output=True, text=True).stdout)


def _rate(setting: str, seconds: float) -> float:
    """Images a second of training steps in this process."""
    if setting == "reidx":
        threads.wait_briefly()
    import timm
    import torch
    from torch import nn

    torch.manual_seed(0)
    if setting == "reidx":
        torch.set_num_threads(threads.chosen("auto", None, lambda text: print(text, file=sys.stderr)))
    model = timm.create_model("resnet18", num_classes=100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.randn(16, 3, 128, 64), torch.randint(100, (16,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()
    begun, done = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        step()
        done += len(images)
    return done / (time.monotonic() - begun)


if __name__ == "__main__":
    main()
