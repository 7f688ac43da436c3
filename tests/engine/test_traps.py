"""Silent faults of mmengine 0.10.7 that must not happen here; each test names its fault."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.runner import Runner
from torch import Tensor

import reidx
from reidx.data.domains import Domains
from reidx.engine import loop as loop_module
from reidx.engine.stage import StageRun
from reidx.errors import CheckpointError
from reidx.reporting.reporter import Reporter
from reidx.runs import checkpoint as checkpoints

Experiment = Callable[..., Path]


def stage_of(path: Path, work_dir: Path, *overrides: str) -> StageRun:
    config = reidx.load_config(path, overrides)
    stage = config.experiment.stages[0]
    torch.manual_seed(0)
    return StageRun(stage, 0, 1, Domains(config.data["data"]), work_dir, Path, Reporter("quiet"))


def seen_by(stage: StageRun) -> list[Tensor]:
    """Return a list that fills with the network input of each training step of ``stage``."""
    seen: list[Tensor] = []
    transform = stage.model.transforms["target"]

    def spy(images: Tensor) -> Tensor:
        seen.append(transform(images))
        return seen[-1]

    stage.model.transforms = {"target": spy}
    return seen


def test_weights_of_a_child_are_kept(experiment: Experiment, tmp_path: Path) -> None:
    stage = stage_of(experiment(), tmp_path / "run")
    pretrained = timm.create_model("test_resnet", num_classes=0).requires_grad_(False)
    stage.model.pretrained = pretrained  # a direct child, which mmengine would initialise
    before = {k: v.clone() for k, v in pretrained.state_dict().items()}
    stage.run(resume=False)
    assert all(torch.equal(before[k], v) for k, v in pretrained.state_dict().items())
    # mmengine would have overwritten them
    BaseModule.init_weights(stage.model)
    assert any(not torch.equal(before[k], v) for k, v in pretrained.state_dict().items())


def test_augmentations_differ_between_epochs_and_repeat_between_runs(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # labels are identities, so that the draws depend only on the seed
    path = experiment(
        streams={"target": {"domain": "target", "labels": "identity", "sampler": {"type": "PK", "identities": 4}}},
        labels={},
        memories={},
        objective=[{"loss": "Triplet", "feature": "pooled"}],
    )

    def images(name: str) -> tuple[Tensor, Tensor]:
        stage = stage_of(path, tmp_path / name)
        seen = seen_by(stage)
        stage.run(resume=False)
        return torch.cat(seen[:3]), torch.cat(seen[3:])

    first, second = images("a")
    again_first, again_second = images("b")
    assert torch.equal(first, again_first) and torch.equal(second, again_second)
    assert not torch.equal(first, second)
    # the same seed for each epoch would have repeated them
    seed = loop_module.seed_everything
    monkeypatch.setattr(loop_module, "seed_everything", lambda *key: seed(7))
    first, second = images("c")
    assert torch.equal(first, second)


def test_a_checkpoint_of_another_shape_is_an_error(experiment: Experiment, tmp_path: Path) -> None:
    stage = stage_of(experiment(), tmp_path / "run")
    stage.run(resume=False)
    saved = tmp_path / "run" / "epoch_2.pth"
    state = checkpoints.load(saved)
    key = next(k for k in state["state_dict"] if k.endswith("conv1.weight"))
    state["state_dict"][key] = torch.zeros(1, 1, 1, 1)
    wrong = tmp_path / "wrong.pth"
    torch.save(state, wrong)
    assert stage.runner is not None
    with pytest.raises(CheckpointError, match=r"size mismatch.*conv1"):
        stage.runner.load_checkpoint(str(wrong))
    with pytest.raises(CheckpointError, match=r"conv1.weight: \(1, 1, 1, 1\) in the file"):
        checkpoints.load_weights(stage.model.networks["student"], wrong)


def test_memory_of_another_size_is_restored(
    experiment: Experiment, tmp_path: Path
) -> None:
    path = experiment()
    stage = stage_of(path, tmp_path / "run")
    stage.run(resume=False)
    trained = stage.model.memories["rows"].weight
    fresh = stage_of(path, tmp_path / "run")
    assert fresh.model.memories["rows"].weight.shape != trained.shape
    fresh.run(resume=True)
    restored = fresh.model.memories["rows"].weight
    assert torch.equal(restored, trained)
    optimizer = fresh.runner.optim_wrapper.optimizer
    assert any(p is restored for group in optimizer.param_groups for p in group["params"])
    assert not any(k.startswith("memories") for k in fresh.model.networks.state_dict())


def test_checkpoints_are_plain_data_without_code(experiment: Experiment, tmp_path: Path) -> None:
    stage_of(experiment(), tmp_path / "run").run(resume=False)
    torch.load(tmp_path / "run" / "epoch_2.pth", weights_only=True)  # needs no allow-list

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps({"state_dict": Malicious()}))
    with pytest.raises(CheckpointError, match="pickled objects"):
        checkpoints.load(bad)
    torch.save({"state_dict": Malicious()}, bad)
    with pytest.raises(CheckpointError, match="pickled objects"):
        checkpoints.load(bad)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_see_each_relabelling(experiment: Experiment, tmp_path: Path, workers: int) -> None:
    stage = stage_of(experiment(), tmp_path / "run", f"data.workers={workers}")
    labellings, batches = [], []
    run = stage.relabeller.run

    def relabel(epoch: int, identity: dict[str, str]) -> dict[str, float]:
        report = run(epoch, identity)
        labels = stage.relabeller.labels["main"]
        labels.labels = (labels.count - 1 - labels.labels).clip(min=-1) * (labels.labels >= 0) - (labels.labels < 0)
        if epoch == 0:
            labels.labels = labels.labels * 0
        labellings.append(torch.from_numpy(labels.labels))
        return report

    stage.relabeller.run = relabel
    forward = stage.model.forward

    def spy(streams: dict, mode: str = "loss") -> dict:
        batches.append((len(labellings) - 1, streams["target"]))
        return forward(streams, mode)

    stage.model.forward = spy
    stage.run(resume=False)
    assert len(batches) == 6
    for epoch, batch in batches:
        assert torch.equal(batch.targets, labellings[epoch][batch.index])
    assert not torch.equal(labellings[0], labellings[1])


def test_schedules_end_with_the_stage(experiment: Experiment, tmp_path: Path) -> None:
    path = experiment(schedule=[{"type": "StepLR", "step_size": 1, "gamma": 0.1}])
    stage = stage_of(path, tmp_path / "run")
    history = stage.run(resume=False)
    assert [entry["lr"] for entry in history] == pytest.approx([3.5e-4, 3.5e-5])
    assert stage.runner.param_schedulers[0].end == 2


def test_checkpoint_of_more_processes_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    path = experiment()
    stage_of(path, tmp_path / "run").run(resume=False)
    saved = tmp_path / "run" / "epoch_2.pth"
    state = checkpoints.load(saved)
    state["reidx"]["world_size"] = 4
    checkpoints.save(saved, state)
    with pytest.raises(CheckpointError, match="4 processes, this run has 1"):
        stage_of(path, tmp_path / "run").run(resume=True)


def test_simultaneous_runs_do_not_share_logs(experiment: Experiment, tmp_path: Path) -> None:
    path = experiment()
    a, b = stage_of(path, tmp_path / "a"), stage_of(path, tmp_path / "b")
    a.run(resume=False)
    b.run(resume=False)
    assert a.runner.experiment_name != b.runner.experiment_name
    assert a.runner.message_hub is not b.runner.message_hub
    assert a.runner.logger is not b.runner.logger


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_run_leaves_no_open_file(experiment: Experiment, tmp_path: Path) -> None:
    reidx.run(reidx.load_config(experiment()), tmp_path / "run", progress="quiet")
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    opened = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert not [path for path in opened if path.startswith(str(tmp_path))]
    assert not [path for path in (tmp_path / "run" / "1-adapt").iterdir() if path.is_dir() or path.suffix == ".log"]


def test_an_error_in_a_hook_keeps_its_line(experiment: Experiment, tmp_path: Path) -> None:
    class Faulty(Hook):
        def before_train(self, runner: Runner) -> None:
            self.guilty()

        def guilty(self) -> None:
            raise TypeError("a fault inside")

    stage = stage_of(experiment(), tmp_path / "run")
    stage.run(resume=False)
    stage.runner.register_hook(Faulty())
    with pytest.raises(TypeError, match="a fault inside") as error:
        stage.runner.call_hook("before_train")
    assert any(frame.name == "guilty" for frame in traceback.extract_tb(error.value.__traceback__))


def test_memories_change_after_the_step(experiment: Experiment, tmp_path: Path) -> None:
    stage = stage_of(experiment(), tmp_path / "run")
    order = []
    memory = stage.model.memories["rows"]
    memory.update = lambda *a: order.append("memory")


    run = stage.run
    original = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        order.append("optimiser")
        return original(self, *args, **kwargs)

    torch.optim.Adam.step = step
    try:
        run(resume=False)
    finally:
        torch.optim.Adam.step = original
    assert order == ["optimiser", "memory"] * 6
