"""One step: joint or separate streams, maps of teachers, and updates after the step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reidx.contracts import Batch, Features
from reidx.engine.objective import BoundAlignment, BoundTerm, Objective
from reidx.engine.step import StageModel
from reidx.memories import Memory
from reidx.optim.optimizer import PrecisionOptimWrapper, build_optimizer
from reidx.testing.networks import tiny_network

EMA = {"type": "EMA", "of": "student", "momentum": 0.5, "warmup": False, "batch_norm": "own", "statistics": "running"}
FROZEN = {**EMA, "type": "Frozen"}


class Sum(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.square().sum()


class Diary(Memory):
    """Memory that records its updates."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.ones(3, 4))
        self.taken: list[tuple[Tensor, Tensor, Tensor]] = []
        self.weights_then: list[Tensor] = []
        self.watch: Tensor | None = None

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        """Do nothing."""

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.rows.T

    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        self.taken.append((features, targets, index))
        if self.watch is not None:
            self.weights_then.append(self.watch.detach().clone())


class Gap(nn.Module):
    def forward(self, source: Features, target: Features) -> Tensor:
        return (source["pooled"].mean(0) - target["pooled"].mean(0)).square().sum()


def term(loss: nn.Module, **wiring: Any) -> BoundTerm:
    default = {
        "stream": "target", "network": "student", "feature": "embed", "memory": None, "teacher": None,
        "weight": 1.0, "from_epoch": 0,
    }  # fmt: skip
    return BoundTerm(f"{type(loss).__name__}-{wiring.get('stream', 'target')}", loss, {**default, **wiring})


def model_of(
    streams: dict[str, str | None],
    teachers: dict[str, dict[str, Any]] | None = None,
    memories: dict[str, Memory] | None = None,
    wiring: dict[str, dict[str, str]] | None = None,
    terms: list[Any] | None = None,
    joint: bool = False,
    teaching: bool = False,
) -> StageModel:
    networks = {"student": tiny_network(0, teaching)}
    networks.update({name: tiny_network(i + 1, teaching) for i, name in enumerate(teachers or {})})
    terms = terms or [term(Sum(), stream=name) for name in streams]
    transforms = {name: lambda x: x.float() for name in streams}
    model = StageModel(
        networks, teachers or {}, memories or {}, wiring or {}, Objective(terms), transforms, streams, joint
    )
    return model.train()


def images(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) + seed


def batch(seed: int, count: int = 4) -> Batch:
    return Batch(images(seed, count), torch.arange(count) + 10 * seed, targets=torch.arange(count) % 3)


def stepper(model: StageModel, lr: float = 0.01) -> PrecisionOptimWrapper:
    return PrecisionOptimWrapper(optimizer=build_optimizer(model, {"type": "SGD", "lr": lr}))


# ---- streams


@pytest.mark.parametrize("joint", [True, False])
def test_batch_norm_over_joint_or_separate_streams(joint: bool) -> None:
    model = model_of({"source": None, "target": None}, joint=joint)
    reference = copy.deepcopy(model.networks["student"])
    given = {"source": images(0, 4), "target": images(5, 6)}
    features = model.features(given)["student"]
    if joint:
        joined = reference(torch.cat([given["source"], given["target"]]))
        expected = {"source": joined["embed"][:4], "target": joined["embed"][4:]}
    else:
        expected = {name: reference(x)["embed"] for name, x in given.items()}
    assert list(features) == ["source", "target"]
    for name, value in expected.items():
        assert torch.allclose(features[name]["embed"], value, atol=1e-6)
    ours, theirs = model.networks["student"].backbone.norm, reference.backbone.norm
    assert torch.allclose(ours.running_mean, theirs.running_mean)
    assert int(ours.num_batches_tracked) == (1 if joint else 2)
    # in separate passes both streams have the same mean, the BatchNorm's bias; in a joint pass the brighter stream's is higher
    gap = (features["source"]["embed"].mean(0) - features["target"]["embed"].mean(0)).abs().max()
    assert (gap > 0.5) == joint


def test_each_stream_goes_through_its_own_transform() -> None:
    model = model_of({"source": None, "target": None})
    model.transforms = {"source": lambda x: x * 0.0, "target": lambda x: x}
    model({"source": batch(1), "target": batch(2)})
    seen = model._last_step[0]["student"]
    assert seen["source"]["pooled"].std(0).max() < 1e-6 < seen["target"]["pooled"].std(0).max()


def test_values_of_terms_and_their_sum() -> None:
    model = model_of({"source": None, "target": None}, terms=[
        term(Sum(), stream="source", weight=0.5),
        term(Sum(), feature="pooled"),
        BoundAlignment("gap", Gap(), {"source": "source", "target": "target", "weight": 2.0, "from_epoch": 0}),
    ])  # fmt: skip
    given = {"source": batch(1), "target": batch(2)}
    reference = copy.deepcopy(model.networks["student"])
    values = model(given)
    source, target = (reference(given[name].images) for name in ("source", "target"))
    expected = {
        "Sum-source": source["embed"].square().sum(),
        "Sum-target": target["pooled"].square().sum(),
        "gap": (source["pooled"].mean(0) - target["pooled"].mean(0)).square().sum(),
    }
    assert set(values) == {"loss", *expected}
    for name, value in expected.items():
        assert torch.allclose(values[name], value, atol=1e-5)
    total = 0.5 * expected["Sum-source"] + expected["Sum-target"] + 2.0 * expected["gap"]
    assert torch.allclose(values["loss"], total, rtol=1e-5)


# ---- teachers


@pytest.mark.parametrize("joint", [True, False])
def test_fusion_gets_the_map_of_its_average(joint: bool) -> None:
    model = model_of({"source": None, "target": None}, {"mean": EMA}, joint=joint, teaching=True).eval()
    student, mean = model.networks["student"], model.networks["mean"]
    given = {"source": images(1), "target": images(2)}
    features = model.features(given)["student"]
    for name, x in given.items():
        pooled = student.backbone(x).mean((2, 3)) + 10.0 * mean.backbone(x).mean((2, 3))
        assert torch.allclose(features[name]["embed"], pooled, atol=1e-5)
        assert not torch.allclose(features[name]["embed"], features[name]["pooled"])


def test_only_trained_networks_make_a_graph() -> None:
    model = model_of({"target": None}, {"mean": EMA, "offline": FROZEN, "peer": {**EMA, "type": "Peer"}}, terms=[
        term(Sum()), term(Imitation(), teacher="offline")
    ])  # fmt: skip
    made = model.features({"target": images(1)})
    graphs = {name: by["target"]["embed"].requires_grad for name, by in made.items()}
    assert graphs == {"mean": False, "offline": False, "student": True, "peer": True}
    with torch.no_grad():
        assert not model.features({"target": images(1)})["student"]["target"]["embed"].requires_grad


class Imitation(nn.Module):
    def forward(self, features: Tensor, teacher: Tensor) -> Tensor:
        return (features - teacher).square().sum()


# ---- after the step


def test_memory_is_updated_after_the_weights() -> None:
    memory = Diary()
    model = model_of(
        {"target": "main"}, memories={"m": memory}, wiring={"m": {"network": "student", "feature": "pooled", "labels": "main"}}
    )
    weight = model.networks["student"].backbone.conv.weight
    memory.watch = weight
    before = weight.detach().clone()
    expected = copy.deepcopy(model.networks["student"])(images(1))["pooled"]
    given = batch(1)
    model.train_step({"target": given}, stepper(model))
    ((features, targets, index),) = memory.taken
    assert torch.allclose(features, expected, atol=1e-6) and not features.requires_grad
    assert torch.equal(targets, given.targets) and torch.equal(index, given.index)
    assert torch.equal(memory.weights_then[0], weight) and not torch.equal(before, weight)


def test_memory_gets_streams_of_its_labels() -> None:
    memory = Diary()
    model = model_of(
        {"source": "identity", "target": "main", "again": "main"},
        {"offline": FROZEN},
        {"m": memory},
        {"m": {"network": "offline", "feature": "embed", "labels": "main"}},
    )
    given = {"source": batch(1), "target": batch(2), "again": batch(3)}
    expected = [model.networks["offline"](given[name].images)["embed"] for name in ("target", "again")]
    assert model.networks_to_forward() == ["offline", "student"]  # only the memory needs offline
    model.train_step(given, stepper(model))
    (features, _, index), = memory.taken
    assert index.tolist() == [20, 21, 22, 23, 30, 31, 32, 33]
    assert torch.allclose(features, torch.cat(expected), atol=1e-6)


def test_a_trainable_memory_is_in_the_optimiser() -> None:
    memory = Diary()
    wiring = {"m": {"network": "student", "feature": "embed", "labels": "main"}}
    model = model_of({"target": "main"}, memories={"m": memory}, wiring=wiring, terms=[term(Scores(), memory="m")])
    before = memory.rows.detach().clone()
    model.train_step({"target": batch(1)}, stepper(model))
    assert not torch.equal(before, memory.rows)


class Scores(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return scores.square().mean()


def test_averages_follow_the_weights_after_the_step() -> None:
    model = model_of({"target": None}, {"mean": EMA})
    student, mean = (model.networks[n].backbone.conv.weight for n in ("student", "mean"))
    before, start = mean.detach().clone(), student.detach().clone()
    model.train_step({"target": batch(1)}, stepper(model, lr=0.1))
    assert not torch.allclose(student, start)
    assert torch.allclose(mean, 0.5 * before + 0.5 * student, atol=1e-6)
    assert model.steps == 1


def test_nothing_of_a_step_is_kept_beyond_it() -> None:
    model = model_of({"target": None})
    values = model.train_step({"target": batch(1)}, stepper(model))
    assert model._last_step is None and not any(v.requires_grad for v in values.values())


def test_bf16_is_only_for_the_forward_pass() -> None:
    memory = Diary()
    wiring = {"m": {"network": "student", "feature": "embed", "labels": "main"}}
    model = model_of({"target": "main"}, memories={"m": memory}, wiring=wiring)
    maps: list[torch.dtype] = []
    model.networks["student"].backbone.conv.register_forward_hook(lambda m, i, o: maps.append(o.dtype))
    wrapper = PrecisionOptimWrapper(
        optimizer=build_optimizer(model, {"type": "SGD", "lr": 0.1}), precision="bf16"
    )
    model.train_step({"target": batch(1)}, wrapper)
    assert maps == [torch.bfloat16]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert not torch.is_autocast_enabled("cpu")


# ---- the streams of a memory's updates, and their time


def test_memory_gets_its_streams_at_once() -> None:
    diary, wiring = Diary(), {"network": "student", "feature": "embed", "labels": "main"}
    for named, expected in ((None, ["a", "b"]), ("b", ["b"]), (["b", "a"], ["b", "a"])):
        diary.taken.clear()
        its = {"m": {**wiring, "stream": named}}
        model = model_of({"a": "main", "b": "main", "c": None}, memories={"m": diary}, wiring=its)
        given = {name: batch(seed) for seed, name in enumerate(("a", "b", "c"))}
        model.train_step(given, stepper(model))
        assert len(diary.taken) == 1
        features, targets, index = diary.taken[0]
        assert index.tolist() == [i for name in expected for i in given[name].index.tolist()]
        assert targets.tolist() == [i for name in expected for i in given[name].targets.tolist()]
        assert len(features) == len(index) and not features.requires_grad


@pytest.mark.parametrize("when", ["before", "after"])
def test_memory_is_updated_before_or_after(when: str) -> None:
    diary = Diary()
    seen: list[int] = []

    class Look(nn.Module):
        def forward(self, features: Tensor, scores: Tensor) -> Tensor:
            seen.append(len(diary.taken))
            return scores.square().sum()

    wiring = {"m": {"network": "student", "feature": "embed", "labels": "main", "when": when}}
    model = model_of({"target": "main"}, memories={"m": diary}, wiring=wiring, terms=[term(Look(), memory="m")])
    diary.watch = next(model.networks["student"].parameters())
    start = diary.watch.detach().clone()
    model.train_step({"target": batch(1)}, stepper(model))
    assert seen == [1 if when == "before" else 0] and len(diary.taken) == 1
    assert torch.equal(diary.weights_then[0], start) == (when == "before")


def test_views_of_a_batch_are_moved_once() -> None:
    model, shared = model_of({"a": "main", "b": "main"}), batch(1)
    moves = []
    to = Batch.to

    def counted(self: Batch, device: torch.device) -> Batch:
        moves.append(self)
        return to(self, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "to", counted)
        model.train_step({"a": shared, "b": shared}, stepper(model))
    assert moves == [shared]
