"""Conformance checks of optimisers and schedules."""

from __future__ import annotations

import io
import math
from typing import Any

import torch
from torch import nn

from reidx.errors import ReidxError
from reidx.optim.mmengine_optim import ParamScheduler
from reidx.optim.optimizer import try_step
from reidx.optim.schedule import build_schedule, with_ends
from reidx.registry.registry import Entry
from reidx.testing.given import build_component, expect, expect_finite, seeded_generator, spec_of

STEPS = 6


def network() -> nn.Sequential:
    """Return a small network with weights of four, two and one dimensions, the same at each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Make steps towards outputs of 1, each with its own images."""
    for step in steps:
        images = torch.randn(8, 3, 6, 6, generator=seeded_generator(step))
        optimizer.zero_grad()
        (model(images) - 1).square().mean().backward()
        optimizer.step()


def saved(state: Any) -> Any:
    """Return a state as a checkpoint would load it; raises :class:`AssertionError` if it is not plain data and tensors."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)
    except Exception as error:
        raise AssertionError(f"its state is not plain data and tensors, as a checkpoint requires: {error}") from error


def steps_without_a_closure(entry: Entry) -> None:
    """Check that it is a torch optimiser whose step needs no closure, changes parameters and keeps them finite."""
    model = network()
    optimizer = build_component(entry, params=[{"params": list(model.parameters())}])
    expect(isinstance(optimizer, torch.optim.Optimizer), "it is no subclass of torch.optim.Optimizer")
    try:
        try_step(optimizer, entry.name)
    except ReidxError as error:
        raise AssertionError(str(error)) from error
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, optimizer, range(STEPS))
    for parameter, old in zip(model.parameters(), before):
        expect_finite(parameter.detach(), "parameters after a step")
        expect(not torch.equal(parameter, old), f"steps do not change a parameter of shape {tuple(old.shape)}")


def follows_the_rate_of_each_group(entry: Entry) -> None:
    """Check that a group with ``lr`` 0, set after construction, does not change, nor a parameter without gradient."""
    model, unused = network(), nn.Parameter(torch.ones(3))
    head = list(model[3].parameters())
    groups = [{"params": [*model[:2].parameters(), unused]}, {"params": head}]
    optimizer = build_component(entry, params=groups)
    optimizer.param_groups[1]["lr"] = 0.0
    before = head[0].detach().clone()
    train(model, optimizer, range(STEPS))
    expect(torch.equal(head[0], before), "it does not read lr of each group at each step, which schedules set")
    expect(torch.equal(unused, torch.ones(3)), "it changes a parameter that has no gradient")


def resumes_bit_for_bit(entry: Entry) -> None:
    """Check that an optimiser restored from its state makes the same further steps, bit for bit."""

    def built() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network()
        groups = [{"params": list(model[:2].parameters())}, {"params": list(model[2:].parameters())}]
        return model, build_component(entry, params=groups)

    whole, optimizer = built()
    train(whole, optimizer, range(2 * STEPS))
    first, optimizer = built()
    train(first, optimizer, range(STEPS))
    resumed, fresh = built()
    resumed.load_state_dict(first.state_dict())
    fresh.load_state_dict(saved(optimizer.state_dict()))
    train(resumed, fresh, range(STEPS, 2 * STEPS))
    same = all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters()))
    expect(same, "after its state is restored, it makes other steps: keep all state in `state` and `param_groups`")


def sets_finite_rates(entry: Entry) -> None:
    """Check that it is a schedule of ``lr`` with finite rates, not below 0, in proportion to the groups' own, and resumes."""

    def built() -> tuple[torch.optim.Optimizer, Any]:
        model = network()
        groups = [{"params": [model[0].weight], "lr": 0.1}, {"params": [model[3].weight], "lr": 0.2}]
        optimizer = torch.optim.SGD(groups)
        (spec,) = with_ends([spec_of(entry)], 2 * STEPS, 1)
        return optimizer, build_schedule(spec, optimizer)

    def rates(optimizer: torch.optim.Optimizer, schedule: Any, count: int) -> list[list[float]]:
        found = []
        for _ in range(count):
            found.append([float(group["lr"]) for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
        return found

    optimizer, schedule = built()
    expect(isinstance(schedule, ParamScheduler), "it is no subclass of reidx.optim.Schedule")
    whole = rates(optimizer, schedule, 2 * STEPS)
    for one, other in whole:
        expect(0 <= one < math.inf and 0 <= other < math.inf, f"its rates are {one} and {other}, not finite numbers from 0")
        right = math.isclose(2 * one, other, rel_tol=1e-6, abs_tol=1e-12)
        expect(right, f"rates of 0.1 and 0.2 become {one} and {other}: it does not keep their ratio, which `rates` set")
    optimizer, schedule = built()
    rates(optimizer, schedule, STEPS)
    fresh, restored = built()
    fresh.load_state_dict(optimizer.state_dict())
    restored.load_state_dict(saved(schedule.state_dict()))
    expect(rates(fresh, restored, STEPS) == whole[STEPS:], "after its state is restored, it sets other rates")
