"""Steps read nothing back from the device, so that the host can run ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import reidx
from reidx.data.domains import Domains
from reidx.data.transforms import ReidAugment
from reidx.engine.loop import StageLoop
from reidx.engine.stage import StageRun
from reidx.engine.step import StageModel
from reidx.reporting.reporter import Reporter

READS_BACK = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero", "equal", "bincount")
"""Operations after which the host must wait for the result or its shape."""


class Waits(TorchDispatchMode):
    """Mode that records, on any machine, the operations for which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith(("index", "_index")) and any(
            i is not None and i.dtype in (torch.bool, torch.uint8)
            for i in (args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else [])
        )
        if name in READS_BACK or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def steps_watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Watch each step from its batch to its last update; yield a list that fills with each step's waits."""
    seen: list[list[str]] = []
    plain = StageModel.train_step

    def watched(self: StageModel, data: Any, optim_wrapper: Any) -> Any:
        with Waits() as waits:
            values = plain(self, data, optim_wrapper)
        seen.append(waits.seen)
        return values

    monkeypatch.setattr(StageModel, "train_step", watched)
    yield seen


def test_watch_detects_waits() -> None:
    x = torch.arange(6)
    with Waits() as waits:
        float(x.sum())
        x[x > 2]
        bool(x.any())
        x[torch.tensor([1, 2])]
        torch.where(x > 2, x, 0)
    assert waits.seen[:1] == ["_local_scalar_dense"] and len(waits.seen) >= 3
    with Waits() as waits:
        x[torch.tensor([1, 2])]
        torch.where(x > 2, x, 0)
    assert waits.seen == []


def stage_run(path: Path, folder: Path) -> StageRun:
    config = reidx.load_config(path)
    stage = config.experiment.stages[-1]
    return StageRun(stage, 0, 1, Domains(config.data["data"]), folder, Path, Reporter("quiet"))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("rule", ["momentum", "hard"])
def test_step_does_not_wait_for_the_device(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joint: bool, rule: str
) -> None:
    monkeypatch.setattr(ReidAugment, "by_slices", ReidAugment.by_index)  # as on a GPU
    stream = {"domain": "target", "sampler": {"type": "PK", "identities": 4, "instances": 4}}
    path = experiment(
        stages=[{"name": "adapt", "epochs": 2, "iters": 3}],
        joint=joint,
        streams={"target": {**stream, "labels": "main"}, "again": {**stream, "labels": "identity"}},
        objective=[
            {"loss": "MemoryContrast", "memory": "centroids", "stream": "target"},
            {"loss": "Triplet", "stream": "again"},
        ],
        memories={"centroids": {"memory": {"type": "cluster_contrast.ClusterMemory", "update": rule}, "labels": "main"}},
        # not Adam, which counts its steps on the CPU: this would be recorded as a wait
        optimizer={"type": "SGD", "lr": 0.01, "momentum": 0.9},
        evaluate={"domain": None},
    )
    with steps_watched(monkeypatch) as seen:
        stage_run(path, tmp_path / "run").run(resume=False)
    assert len(seen) == 6
    assert not any(seen[1:3] + seen[4:])
    assert all(len(waits) <= 1 for waits in seen)  # in the first step of an epoch, returned values are checked


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_step_does_not_wait_for_a_gpu(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = StageModel.train_step

    def strict(self: StageModel, data: Any, optim_wrapper: Any) -> Any:
        if self.steps == 0:  # things made only once (optimiser state, constants) may wait
            return plain(self, data, optim_wrapper)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return plain(self, data, optim_wrapper)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(StageModel, "train_step", strict)
    path = experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 3}], evaluate={"domain": None})
    history = stage_run(path, tmp_path / "run").run(resume=False)
    assert history[-1]["loss"] > 0


def test_place_of_the_images_changes_nothing(experiment: Callable[..., Path], tmp_path: Path) -> None:
    ends = []
    for place in ("host", "device"):
        path = experiment(stages=[{"name": "adapt", "epochs": 2, "iters": 2}])
        config = reidx.load_config(path, [f"data.cache_on={place}"])
        result = reidx.run(config, tmp_path / place, progress="quiet")
        ends.append((result.stages[0].last["loss"], result.metrics))
    assert ends[0] == ends[1]


def test_too_small_device_cache_is_refused(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageLoop, "run_epoch", lambda self: pytest.fail("trained"))
    config = reidx.load_config(experiment(), ["data.cache_on=device", "data.cache_gb=0.00001"])
    with pytest.raises(reidx.errors.ConfigError, match=r"data\.cache_on: device: target: \d+ images of 48x24 take 0\.\d\d GB"):
        reidx.run(config, tmp_path / "run", progress="quiet")
