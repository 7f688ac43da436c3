"""A whole run: the parts that the student takes from the teacher, and the parts that do not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import reidx
from reidx.config.config import Config
from reidx.engine.experiment import Result
from reidx.engine.relabel import Extractor
from reidx.memories import Memory
from reidx.registry.discovery import registry
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_same

Tiny = Callable[..., Config]
STAGES = {"teacher": 2, "warmup": 1, "student": 2}


@dataclass
class Run:
    """A finished run, with the weights that labelled the images and the rows after each reset of a memory."""

    folder: Path
    result: Result | None = None
    labelled_by: list[dict[str, Tensor]] = field(default_factory=list)
    resets: list[Tensor] = field(default_factory=list)

    def last(self, stage: str) -> dict[str, Any]:
        number = list(STAGES).index(stage) + 1
        return checkpoints.load(self.folder / f"{number}-{stage}" / f"epoch_{STAGES[stage]}.pth")

    def network(self, stage: str, network: str = "student") -> dict[str, Tensor]:
        return checkpoints.strip_prefix(self.last(stage)["state_dict"], f"networks.{network}.")


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Run:
    seen = Run(tmp_path_factory.mktemp("run") / "run")
    memory: type[Memory] = registry().find("memory", "cluster_contrast.ClusterMemory").load()  # type: ignore[assignment]
    features, reset = Extractor.features, memory.reset

    def extract(self: Extractor, domain: str, split: str, network: str, *rest: Any) -> dict[str, Tensor]:
        if split == "train":
            seen.labelled_by.append({k: v.clone() for k, v in self.model.networks[network].state_dict().items()})
        return features(self, domain, split, network, *rest)

    def remember(self: Memory, *given: Any) -> None:
        reset(self, *given)
        seen.resets.append(self.state_dict()["rows"].clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Extractor, "features", extract)
        patch.setattr(memory, "reset", remember)
        seen.result = reidx.run(tiny("lp::usl.yaml", "stages.warmup.iters=6"), seen.folder, progress="quiet")
    return seen


def test_stages_have_their_epochs_and_steps(run: Run) -> None:
    assert run.result is not None
    found = {s.name: [entry["images"] / 8 for entry in s.history] for s in run.result.stages}
    assert found == {"teacher": [3, 3], "warmup": [6], "student": [3, 3]}


def test_teacher_labels_only_the_warmup(run: Run) -> None:
    assert len(run.labelled_by) == 5  # once per epoch: the teacher's two, the warm-up, the student's two
    assert_same(run.labelled_by[2], run.network("teacher"))
    assert_same(run.labelled_by[3], run.network("warmup"))


def test_centroids_are_fixed_only_in_warmup(run: Run) -> None:
    assert len(run.resets) == 5 * 3
    for view, made in zip(("global", "upper", "lower"), run.resets[6:9]):
        assert torch.allclose(run.last("warmup")["reidx"]["memories"][view]["rows"], made, atol=1e-6)
    for view, made in zip(("global", "upper", "lower"), run.resets[12:]):
        assert not torch.allclose(run.last("student")["reidx"]["memories"][view]["rows"], made, atol=1e-2)


def test_teacher_does_not_learn(run: Run) -> None:
    """Its weights stay fixed. Its running statistics drift in training mode, but nothing uses them."""
    teacher = run.network("teacher")
    for stage in ("warmup", "student"):
        offline = run.network(stage, "offline")
        assert offline.keys() == teacher.keys()
        for name, value in offline.items():
            assert torch.equal(value, teacher[name]) != name.endswith(("running_mean", "running_var", "_tracked")), name


def test_optimiser_state_continues_from_warmup(run: Run) -> None:
    for stage, steps in (("teacher", 6), ("warmup", 6), ("student", 12)):
        remembered = run.last(stage)["optimizer"]["state"].values()
        assert {int(moments["step"]) for moments in remembered} == {steps}


def test_student_starts_from_its_own_weights(run: Run) -> None:
    teacher, warmed = run.network("teacher"), run.network("warmup")  # six steps at 3.5e-4 change far less
    convolutions = [name for name, value in warmed.items() if value.ndim == 4]
    assert convolutions
    assert all((warmed[n] - teacher[n]).abs().max() > 0.02 for n in convolutions)


def memory(momentum: float, rows: Tensor) -> Memory:
    built = reidx.build("memory", {"type": "cluster_contrast.ClusterMemory", "momentum": momentum}, dim=rows.shape[1])
    built.reset(rows, torch.arange(len(rows)))
    return built


def test_momentum_1_fixes_the_memory() -> None:
    rows = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    kept = memory(1.0, rows)
    kept.update(F.normalize(torch.randn(9, 8)), torch.arange(9) % 3, torch.arange(9))
    assert torch.allclose(kept.state_dict()["rows"], rows, atol=1e-6)


def test_memory_follows_instances_in_order() -> None:
    # m = 0.1, row (1,0), then (0,1), then (1,0): (0.1, 0.9) at unit length is (0.11043, 0.99388); a tenth of it remains
    moved = memory(0.1, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    moved.update(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0]), torch.arange(2))
    row = (0.1 * 0.110432 + 0.9, 0.1 * 0.993884)
    length = (row[0] ** 2 + row[1] ** 2) ** 0.5
    assert moved.state_dict()["rows"][0].tolist() == pytest.approx([row[0] / length, row[1] / length], abs=1e-5)
    assert row[0] / length == pytest.approx(0.9941, abs=1e-4)
