"""Interrupted and resumed runs, folders that must not change, and the comparison of two runs bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from reidx.config.config import Config
from reidx.engine.experiment import run
from reidx.engine.step import StageModel
from reidx.runs import checkpoint as checkpoints
from reidx.runs.stamp import STAMP


def assert_resumes(config: Config, folder: Path, steps: Sequence[int], whole: Path | None = None) -> None:
    """Raise :class:`AssertionError` unless an interrupted and resumed run equals an uninterrupted one.

    The first session is interrupted in the step with the first number of ``steps``, counted from 1, the second session in that
    with the second number, and so on. ``whole`` is the folder of the uninterrupted run, if there is one already.
    """
    if whole is None:
        whole = folder / "whole"
        run(config, whole, progress="quiet")
    for number, step in enumerate(steps):
        with interrupted(step):
            run(config, folder / "interrupted", resume=number > 0, progress="quiet")
    run(config, folder / "interrupted", resume=True, progress="quiet")
    assert_same_run(folder / "interrupted", whole)


@contextlib.contextmanager
def interrupted(step: int) -> Iterator[None]:
    """Interrupt the block's training at the end of a step, counted from 1; raise :class:`AssertionError` if it has fewer."""
    after_step, taken = StageModel.after_step, 0

    def interrupt(self: StageModel) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            raise KeyboardInterrupt
        after_step(self)

    with mock.patch.object(StageModel, "after_step", interrupt):
        try:
            yield
        except KeyboardInterrupt:
            assert taken == step, f"interrupted from outside, in step {taken}"
            return
    raise AssertionError(f"training ended after {taken} steps; step {step} was to be interrupted")


def processes_with(file: Path, *other: int) -> list[int]:
    """Return the processes that have a file open, except this one and ``other`` ones; needs ``/proc``."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name in map(str, (os.getpid(), *other)):
            continue
        try:
            if any(os.readlink(link) == str(file.resolve()) for link in (process / "fd").iterdir()):
                found.append(int(process.name))
        except (OSError, ValueError):
            continue
    return found


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Raise :class:`AssertionError` if the block adds, removes or changes a file in ``folder``."""
    before = _contents(folder)
    yield
    after = _contents(folder)
    changed = sorted(str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    assert not changed, f"changed in {folder}: {', '.join(changed)}"


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_run(folder: Path, other: Path) -> None:
    """Raise :class:`AssertionError` naming the first difference: in a stage's history, or in a checkpoint that is kept.

    Weights, optimiser, schedules, memories, labels and metrics are compared; what a clock says, and whose they are, is not.
    """
    kept, expected = (sorted(str(p.relative_to(f)) for p in f.glob("*/epoch_*.pth")) for f in (folder, other))
    assert kept == expected, f"{folder} keeps {kept}, {other} {expected}"
    for path in sorted(other.glob("*/done.json")):
        name = path.relative_to(other)
        assert (folder / name).is_file(), f"{folder} has not finished {name.parent}"
        mine, others = (json.loads((f / name).read_text(encoding="utf-8"))["history"] for f in (folder, other))
        assert_same(mine, others, str(name))
    for path in sorted(other.glob("*/epoch_*.pth")):
        name = path.relative_to(other)
        assert_same(checkpoints.load(folder / name), checkpoints.load(path), str(name))


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Raise :class:`AssertionError` at the first difference between two trees of plain data and tensors."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and a.dtype == b.dtype, path
        assert torch.equal(a, b), f"{path} differs"
    elif isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), path
        for key in a:
            if not str(key).startswith("seconds") and key != STAMP:
                assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple)) and len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{path}/{index}")
    else:
        assert a == b, f"{path}: {a} is not {b}"
