"""Whether two runs came out the same, bit for bit: what a run that was interrupted and resumed is held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from reidx.runs import checkpoint as checkpoints
from reidx.runs.stamp import STAMP


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
    """Raise :class:`AssertionError` at the first place where two trees of plain data and tensors differ."""
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
