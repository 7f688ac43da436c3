"""Two processes: if one is lost, the other ends with an error and both can resume; common messages appear once."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from reidx.cli.main import main
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_same_run

STAGES = [{"name": "adapt", "epochs": 2, "iters": 2}]
PATIENCE = 120
"""Seconds after which a process is taken to hang; gloo itself would wait for half an hour."""


def work(rank: int, port: int, words: list[str], out: str, strike: Callable[[int], None] | None) -> None:
    torch.set_num_threads(1)  # a forked process must not use the thread pool of its parent
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = os.open(f"{out}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    if strike is not None:
        strike(rank)
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def together(words: list[str], out: Path, strike: Callable[[int], None] | None = None) -> tuple[list[int], list[str]]:
    """Run two processes and return their exit codes and outputs; fail if one hangs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    started: list[BaseProcess] = [
        context.Process(target=work, args=(rank, port, words, str(out), strike)) for rank in range(2)
    ]
    for process in started:
        process.start()
    until = time.monotonic() + PATIENCE
    for process in started:
        process.join(max(0.0, until - time.monotonic()))
    hanging = [rank for rank, process in enumerate(started) if process.is_alive()]
    for process in started:
        process.kill()
        process.join()
    assert not hanging, f"processes {hanging} hang"
    return [process.exitcode or 0 for process in started], [Path(f"{out}.{rank}").read_text() for rank in range(2)]


def at_step(number: int, lost: int, act: Callable[[], Any]) -> Callable[[int], None]:
    """Return a function that makes process ``lost`` call ``act`` in the step ``number``."""

    def strike(rank: int) -> None:
        from reidx.engine.step import StageModel

        original, calls = StageModel.after_step, []

        def after_step(self: StageModel) -> None:
            calls.append(1)
            if rank == lost and len(calls) == number:
                act()
            original(self)

        StageModel.after_step = after_step  # type: ignore[method-assign]

    return strike


def train(path: Path, folder: Path, *more: str) -> list[str]:
    return ["train", str(path), "--work-dir", str(folder), "--progress", "quiet", *more]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_out() -> None:
    raise MemoryError


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed(lost: int, experiment: Callable[..., Path], tmp_path: Path) -> None:
    path, whole, folder = experiment(stages=STAGES), tmp_path / "whole", tmp_path / "run"
    codes, outputs = together(train(path, whole), tmp_path / "out")
    assert codes == [0, 0], outputs
    codes, outputs = together(train(path, folder), tmp_path / "out", at_step(3, lost, die))
    assert codes[lost] == -signal.SIGKILL and codes[1 - lost] == 1, outputs
    left = outputs[1 - lost].splitlines()[-1]
    assert left.startswith("error: stage adapt, epoch 2/2, ") and "another process of this job ended" in left, outputs
    assert left.endswith("with --resume.")
    assert checkpoints.newest(folder / "1-adapt") == folder / "1-adapt/epoch_1.pth"
    codes, outputs = together(train(path, folder, "--resume"), tmp_path / "out")
    assert codes == [0, 0], outputs
    assert_same_run(folder, whole)


def test_one_process_that_runs_out_of_memory(experiment: Callable[..., Path], tmp_path: Path) -> None:
    path, folder = experiment(stages=STAGES), tmp_path / "run"
    codes, outputs = together(train(path, folder), tmp_path / "out", at_step(3, 1, run_out))
    assert codes == [1, 1], outputs
    assert outputs[1].startswith("error: stage adapt, epoch 2/2, training: out of memory. A step takes 4 images of target")
    assert "another process of this job ended" in outputs[0].splitlines()[-1]
    assert checkpoints.newest(folder / "1-adapt") == folder / "1-adapt/epoch_1.pth"


@pytest.mark.parametrize("mistake", ["seed=many", "data.domains.target={type: Market1501, root: nowhere}"])
def test_mistake_is_reported_by_one_process(mistake: str, experiment: Callable[..., Path], tmp_path: Path) -> None:
    codes, outputs = together(train(experiment(), tmp_path / "run", "--set", mistake), tmp_path / "out")
    assert codes == [1, 1]
    assert "".join(outputs).count("error: ") == 1, outputs


def test_nan_in_all_processes_is_reported_once(experiment: Callable[..., Path], tmp_path: Path) -> None:
    words = train(experiment(stages=STAGES), tmp_path / "run", "--set", "optimizer={type: SGD, lr: 1e+30}")
    codes, outputs = together(words, tmp_path / "out")
    assert codes == [1, 1]
    assert "".join(outputs).count("error: ") == 1 and "became nan in steps 1 to 2 of 2" in "".join(outputs), outputs


def test_full_disk_is_reported_once(experiment: Callable[..., Path], tmp_path: Path) -> None:
    def strike(rank: int) -> None:
        def full(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        torch.save = full

    codes, outputs = together(train(experiment(stages=STAGES), tmp_path / "run"), tmp_path / "out", strike)
    assert codes == [1, 1]
    assert "".join(outputs).count("error: ") == 1, outputs
    assert "epoch_1.pth cannot be written: No space left" in "".join(outputs), outputs


def test_sigterm_is_reported_by_one_process(experiment: Callable[..., Path], tmp_path: Path) -> None:
    def strike(rank: int) -> None:
        at_step(3, rank, lambda: os.kill(os.getpid(), signal.SIGTERM))(rank)

    codes, outputs = together(train(experiment(stages=STAGES), tmp_path / "run"), tmp_path / "out", strike)
    assert codes == [143, 143], outputs
    assert "".join(outputs).count("terminated (SIGTERM)") == 1
