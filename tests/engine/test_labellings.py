"""Labellings of a memory's rows, refiners with state, views, and a BatchNorm per domain, in whole and resumed runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reidx
from reidx.contracts import LabelSet
from reidx.engine.extract import extract
from reidx.engine.step import StageModel
from reidx.errors import CheckpointError
from reidx.memories import Memory
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_same_run, interrupted
from reidx.testing.tiny import tiny_domain, tiny_experiment

SHOWN: list[tuple[int, dict[str, Tensor]]] = []
"""Features that the refiner received, epoch by epoch."""


class Everyone(Memory):
    """Memory with a row per image, which moves half-way to each new feature of its image."""

    rows: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(0, dim))

    @property
    def needs_features(self) -> bool:  # type: ignore[override]
        return not len(self.rows)

    @property
    def images(self) -> Tensor:
        return self.rows

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        if features is not None:
            self.rows = features.clone()

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.rows.T

    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        self.rows[index] = 0.5 * (self.rows[index] + features)


class Remembers:
    """Refiner that counts the labellings and gives each image the current number."""

    requires = frozenset({"pooled"})
    provides = frozenset({"turn"})
    reach = 0.0

    def __init__(self) -> None:
        self.turns = 0

    def __call__(self, labels: LabelSet, context: Any) -> LabelSet:
        SHOWN.append((context.epoch, {name: features.clone() for name, features in context.features.items()}))
        self.turns += 1
        return replace(labels, extra={"turn": np.full(len(labels.labels), self.turns)}, report={"turns": self.turns})

    def state_dict(self) -> dict[str, int]:
        return {"turns": self.turns}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.turns = state["turns"]


class Turns(nn.Module):
    """Loss that grows with the number of the labelling."""

    def forward(self, features: Tensor, turn: Tensor) -> Tensor:
        return (turn[:, None] * features.square()).mean()


@pytest.fixture
def parts(register: Callable[[str, type], None]) -> None:
    for kind, part in (("memory", Everyone), ("refiner", Remembers), ("loss", Turns)):
        register(kind, part)
    SHOWN.clear()


def on_a_memory(root: Path) -> dict[str, Any]:
    base = tiny_experiment(root)
    return {
        "labels": {**base["labels"], "memory": "all", "clusterer": {"type": "Instances"}, "distance": None,
                   "refiners": [{"type": "Remembers"}]},
        "memories": {"all": {"memory": "Everyone"}},
        "streams": {"target": {"domain": "target", "labels": "main", "sampler": {"type": "Shuffle", "batch": 8},
                               "views": {"again": {"type": "ReidAugment", "pad": 2}}}},
        "objective": [
            {"loss": {"type": "MemoryContrast", "temperature": 0.1}, "stream": ["target", "again"], "memory": "all"},
            {"loss": "Turns", "stream": "target", "weight": 0.1},
        ],
        "stages": [{"name": "adapt", "epochs": 3, "iters": 2}],
    }  # fmt: skip


@pytest.mark.usefixtures("parts")
def test_labelling_clusters_the_rows_of_its_memory(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def watched(network: Any, store: Any, transform: Any, names: Any, **settings: Any) -> Any:
        if settings.get("what", "").endswith("features of target"):
            asked.append(set(names))
        return extract(network, store, transform, names, **settings)

    monkeypatch.setattr("reidx.engine.relabel.extract", watched)
    path = experiment(**on_a_memory(domains_root))
    reidx.run(reidx.load_config(path), tmp_path / "run", progress="quiet")
    assert asked == [{"embed", "pooled"}, {"pooled"}, {"pooled"}]  # the labelling's own feature once, the refiner's each time
    assert [epoch for epoch, _ in SHOWN] == [0, 1, 2]
    first, second = (checkpoints.load(tmp_path / f"run/1-adapt/epoch_{n}.pth")["reidx"] for n in (2, 3))
    assert torch.equal(SHOWN[2][1]["embed"], first["memories"]["all"]["rows"])  # as of the end of the second epoch
    assert not torch.equal(SHOWN[2][1]["embed"], SHOWN[1][1]["embed"])
    assert second["history"][-1]["turns"] == 3


@pytest.mark.usefixtures("parts")
def test_memory_refiner_and_views_resume_exactly(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path
) -> None:
    config = reidx.load_config(experiment(**on_a_memory(domains_root)))
    reidx.run(config, tmp_path / "whole", progress="quiet")
    with interrupted(4):
        reidx.run(config, tmp_path / "killed", progress="quiet")
    reidx.run(config, tmp_path / "killed", resume=True, progress="quiet")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.usefixtures("parts")
def test_refiner_without_saved_state_is_refused(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path
) -> None:
    plain = on_a_memory(domains_root)
    plain["objective"] = plain["objective"][:1]
    plain["stages"] = [{"name": "adapt", "epochs": 1, "iters": 1}]
    without = {**plain, "labels": {**plain["labels"], "refiners": []}}
    reidx.run(reidx.load_config(experiment(**without)), tmp_path / "run", progress="quiet")
    more = {**plain, "stages": [{"name": "adapt", "epochs": 2, "iters": 1}]}
    with pytest.raises(CheckpointError, match=r"has no state of main.0.Remembers, which depends on earlier labellings"):
        reidx.run(reidx.load_config(experiment(**more)), tmp_path / "run", resume="anyway", progress="quiet")


def test_views_draw_other_augmentations(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    forward = StageModel.forward

    def watched(self: StageModel, streams: Any, mode: str = "loss") -> Any:
        images = {name: self.transforms[name](batch.images) for name, batch in streams.items()}
        seen.append({"images": images, "index": {name: batch.index for name, batch in streams.items()}})
        return forward(self, streams, mode)

    monkeypatch.setattr(StageModel, "forward", watched)
    base = tiny_experiment(domains_root)
    base["streams"]["target"]["views"] = {"plain": {"type": "ReidTest"}}
    base["objective"] = [{"loss": "CrossEntropy", "memory": "rows", "stream": ["target", "plain"]}]
    base["stages"] = [{"name": "adapt", "epochs": 1, "iters": 2}]
    result = reidx.run(reidx.load_config(experiment(**base)), tmp_path / "run", progress="quiet")
    for step in seen:
        assert step["index"]["plain"].tolist() == step["index"]["target"].tolist()
        assert not torch.equal(step["images"]["plain"], step["images"]["target"])
    assert result.stages[0].last["images"] == 2 * 2 * 8  # counts passes, not distinct images


@pytest.mark.parametrize("shared", [True, False])
def test_batch_norm_per_domain_in_a_run(
    shared: bool, experiment: Callable[..., Path], domains_root: Path, tmp_path: Path
) -> None:
    base = tiny_experiment(domains_root)
    base["data"]["domains"]["source"] = tiny_domain(domains_root, "source")
    base["model"]["domain_bn"] = not shared
    base["streams"]["source"] = {**base["streams"]["target"], "domain": "source", "labels": "identity"}
    base["memories"]["ids"] = {"memory": "LinearClassifier", "labels": "identity"}
    base["objective"] = [
        {"loss": "CrossEntropy", "stream": ["target", "source"], "memory": ["rows", "ids"]},
    ]
    base["stages"] = [{"name": "plain", "epochs": 1, "iters": 2, "model": {"domain_bn": False}},
                      {"name": "adapt", "epochs": 1, "iters": 2, "init": "stage:plain"}]  # fmt: skip
    reidx.run(reidx.load_config(experiment(**base)), tmp_path / "run", progress="quiet")
    state = checkpoints.load(tmp_path / "run/2-adapt/epoch_1.pth")["state_dict"]
    means = {key: value for key, value in state.items() if key.endswith("neck.of.target.running_mean")}
    assert bool(means) != shared
    for key, value in means.items():
        assert not torch.equal(value, state[key.replace("target", "source")])


class Begins(nn.Module):
    """Alignment that computes its centre from all images before training."""

    requires = frozenset({"pooled"})
    shown: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def __init__(self, dims: dict[str, int], steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(dims["pooled"]))

    def begin(self, source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
        self.shown.append((source["pooled"], target["pooled"]))
        self.centre.copy_((source["pooled"].mean(0) + target["pooled"].mean(0)) / 2)

    def forward(self, source: Any, target: Any) -> Tensor:
        return sum((side["pooled"] - self.centre).square().sum(1).mean() for side in (source, target))  # type: ignore[return-value]


def test_alignment_begins_with_all_images(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path, register: Callable[[str, type], None]
) -> None:
    register("alignment", Begins)
    Begins.shown.clear()
    base = tiny_experiment(domains_root)
    base["data"]["domains"]["source"] = tiny_domain(domains_root, "source")
    base["streams"]["source"] = {**base["streams"]["target"], "domain": "source", "labels": "identity"}
    base["objective"] = [{"loss": "CrossEntropy", "stream": "target", "memory": "rows"}]
    base["alignment"] = [{"alignment": "Begins", "weight": 0.01}]
    base["evaluate"] = {"domain": "target", "domain_probe": "pooled", "every": 1}
    base["stages"] = [{"name": "adapt", "epochs": 2, "iters": 2}]
    config = reidx.load_config(experiment(**base))
    result = reidx.run(config, tmp_path / "run", progress="quiet")
    (source, target), = Begins.shown
    assert len(source) == len(target) == 144 and not torch.equal(source, target)
    state = checkpoints.load(tmp_path / "run/1-adapt/epoch_2.pth")["state_dict"]
    centre = next(value for key, value in state.items() if key.endswith("alignment.centre"))
    assert torch.allclose(centre, (source.mean(0) + target.mean(0)) / 2)
    history = result.stages[0].history
    assert all("Begins" in entry and 0.0 <= entry["domain_probe"] <= 1.0 for entry in history)
