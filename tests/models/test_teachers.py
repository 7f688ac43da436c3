"""Teachers: the moving average against a loop over its history, frozen networks, and the trained networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reidx.contracts import Batch
from reidx.engine.objective import BoundTerm, Objective
from reidx.engine.step import StageModel
from reidx.models.teachers import EMA, freeze
from reidx.optim.optimizer import PrecisionOptimWrapper, build_optimizer
from reidx.testing.networks import tiny_network


class Pull(nn.Module):
    """Loss that needs only a feature."""

    def forward(self, features: Tensor) -> Tensor:
        return (features - 1.0).square().sum()


class Imitate(nn.Module):
    def forward(self, features: Tensor, teacher: Tensor) -> Tensor:
        return (features - teacher).square().sum(1).mean()


def settings(kind: str, **given: Any) -> dict[str, Any]:
    defaults = {"of": "student", "momentum": 0.999, "warmup": True, "batch_norm": "own", "statistics": "running"}
    return {"type": kind, **defaults, **given}


def term(loss: nn.Module, **given: Any) -> BoundTerm:
    wiring = {
        "stream": "s", "network": "student", "feature": "embed", "memory": None, "teacher": None,
        "weight": 1.0, "from_epoch": 0,
    }  # fmt: skip
    return BoundTerm(type(loss).__name__ + given.get("network", ""), loss, {**wiring, **given})


def stage(teachers: dict[str, dict[str, Any]], *terms: BoundTerm) -> StageModel:
    networks = {"student": tiny_network(0), **{name: tiny_network(i + 1) for i, name in enumerate(teachers)}}
    objective = Objective(list(terms) or [term(Pull())])
    return StageModel(networks, teachers, {}, {}, objective, {"s": lambda x: x.float()}, {"s": None})


def batch(seed: int) -> dict[str, Batch]:
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return {"s": Batch(images, torch.arange(4))}


def train(model: StageModel, steps: int, **spec: Any) -> None:
    optimizer = build_optimizer(model, {"type": "SGD", "lr": 0.01, **spec})
    wrapper = PrecisionOptimWrapper(optimizer=optimizer)
    model.train()
    for step in range(steps):
        model.train_step(batch(step), wrapper)


def parameters(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


# ---- the average


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_against_a_loop_over_scalars(warmup: bool) -> None:
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    average = EMA(momentum=0.8, warmup=warmup)
    expected = [p.flatten().tolist() for p in teacher.parameters()]
    for step in range(10):
        with torch.no_grad():
            for p in student.parameters():
                p.add_(torch.randn_like(p))
        average.update(teacher, student, step)
        keep = min(1 - 1 / (step + 1), 0.8) if warmup else 0.8
        for values, p in zip(expected, student.parameters()):
            for i, v in enumerate(p.flatten().tolist()):
                values[i] = keep * values[i] + (1 - keep) * v
        for values, p in zip(expected, teacher.parameters()):
            assert p.flatten().tolist() == pytest.approx(values, abs=1e-6)


def test_first_steps_are_the_plain_mean() -> None:
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    average, seen = EMA(), []
    for step in range(4):
        with torch.no_grad():
            student.weight.copy_(torch.randn(2, 3))
        seen.append(student.weight.detach().clone())
        average.update(teacher, student, step)
        if step == 0:
            assert torch.equal(teacher.weight, student.weight) and torch.equal(teacher.bias, student.bias)
    assert torch.allclose(teacher.weight, torch.stack(seen).mean(0), atol=1e-6)


def test_the_weight_grows_until_it_is_the_momentum() -> None:
    average = EMA(momentum=0.999)
    assert [average.weight(t) for t in (0, 1, 3)] == [0.0, 0.5, 0.75]
    assert average.weight(998) == pytest.approx(1 - 1 / 999) and average.weight(998) < 0.999
    assert average.weight(999) == average.weight(5000) == 0.999
    assert EMA(momentum=0.9, warmup=False).weight(0) == 0.9


@pytest.mark.parametrize("momentum", [-0.1, 1.5])
def test_a_momentum_outside_0_and_1_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"momentum is {momentum}"):
        EMA(momentum)


def test_average_follows_networks_that_were_moved() -> None:
    student = nn.Linear(2, 2)
    teacher = copy.deepcopy(student)
    average = EMA(momentum=0.5, warmup=False)
    average.update(teacher, student, 0)
    student, teacher = student.double(), teacher.double()  # like .to(device): new storage behind the parameters
    with torch.no_grad():
        student.weight.add_(4.0)
    before = teacher.weight.clone()
    average.update(teacher, student, 1)
    assert torch.allclose(teacher.weight, before + 2.0)


@pytest.mark.parametrize("batch_norm", ["own", "copy"])
def test_statistics_are_own_or_the_students(batch_norm: str) -> None:
    student, teacher = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    student(torch.randn(8, 3) + 5)
    teacher(torch.randn(8, 3) - 5)
    own = copy.deepcopy(dict(teacher.named_buffers()))
    EMA(batch_norm=batch_norm).update(teacher, student, 0)
    expected = own if batch_norm == "own" else dict(student.named_buffers())
    assert all(torch.equal(buffer, expected[name]) for name, buffer in teacher.named_buffers())
    assert (teacher.running_mean < 0).all() == (batch_norm == "own")


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_a_frozen_networks_batch_norm(statistics: str) -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    freeze(network, statistics)
    x = torch.randn(16, 3) * 4 + 7
    out = network(x)
    expected = x if statistics == "running" else (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(out, expected, atol=1e-3)  # also shows that nothing is dropped out
    assert torch.equal(network[0].running_mean, torch.zeros(3)) == (statistics == "running")


# ---- teachers of a stage


def test_stage_updates_the_average_after_each_step() -> None:
    model = stage({"mean": settings("EMA", momentum=0.6)})
    expected = parameters(model.networks["mean"])
    optimizer = PrecisionOptimWrapper(optimizer=build_optimizer(model, {"type": "SGD", "lr": 0.01}))
    model.train()
    for step in range(5):
        model.train_step(batch(step), optimizer)
        keep = min(1 - 1 / (step + 1), 0.6)
        expected = [keep * e + (1 - keep) * p for e, p in zip(expected, parameters(model.networks["student"]))]
        for e, p in zip(expected, model.networks["mean"].parameters()):
            assert torch.allclose(e, p, atol=1e-6)
    assert model.steps == 5


def test_only_students_and_peers_are_in_the_optimiser() -> None:
    model = stage({"mean": settings("EMA"), "offline": settings("Frozen"), "peer": settings("Peer")})
    optimizer = build_optimizer(model, {"type": "SGD", "lr": 0.1})
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, network in model.networks.items():
        assert {id(p) in trained for p in network.parameters()} == {name in ("student", "peer")}
    assert model.trained == ["student", "peer"]


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_a_frozen_teacher_never_changes(statistics: str) -> None:
    model = stage(
        {"offline": settings("Frozen", statistics=statistics)}, term(Imitate(), teacher="offline")
    )
    offline = model.networks["offline"]
    weights = parameters(offline)
    running = offline.backbone.norm.running_mean.clone()
    train(model, 3, weight_decay=0.5)
    assert all(torch.equal(a, b) for a, b in zip(weights, offline.parameters()))
    assert torch.equal(running, offline.backbone.norm.running_mean) == (statistics == "running")
    model.eval()  # extraction always uses running statistics
    assert not any(m.training for m in offline.modules())


def test_peer_is_trained_only_by_its_term() -> None:
    alone = stage({"peer": settings("Peer")}, term(Imitate(), teacher="peer"))
    before = parameters(alone.networks["peer"])
    train(alone, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, alone.networks["peer"].parameters()))
    both = stage({"peer": settings("Peer")}, term(Pull()), term(Pull(), network="peer"))
    before = both.networks["peer"].backbone.conv.weight.detach().clone()
    train(both, 2)
    assert not torch.allclose(before, both.networks["peer"].backbone.conv.weight)


def test_unused_teacher_is_not_forwarded() -> None:
    model = stage(
        {
            "own": settings("EMA"),  # gets its statistics from its own forward passes
            "copied": settings("EMA", batch_norm="copy"),
            "idle": settings("Frozen"),
            "read": settings("Frozen"),
        },
        term(Imitate(), teacher="read"),
    )
    assert model.networks_to_forward() == ["own", "read", "student"]
    train(model, 2)
    calls = {name: len(network.backbone.calls) for name, network in model.networks.items()}
    assert calls == {"student": 2, "own": 2, "copied": 0, "idle": 0, "read": 2}
    student, copied = model.networks["student"].backbone.norm, model.networks["copied"].backbone.norm
    assert torch.equal(student.running_mean, copied.running_mean)
    assert not torch.equal(student.running_mean, model.networks["own"].backbone.norm.running_mean)
