"""Moments of a stage's optimiser, handed on to the optimiser of the next stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from reidx.errors import CheckpointError
from reidx.optim.moments import load_moments, parameter_names


class Model(nn.Module):
    """Model of a network and a memory, both with parameters."""

    def __init__(self, width: int = 3, rows: int = 5) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({"student": nn.Linear(2, width)})
        self.memories = nn.ModuleDict({"rows": nn.Linear(width, rows, bias=False)})

    def loss(self) -> torch.Tensor:
        return self.memories["rows"](self.networks["student"](torch.ones(4, 2))).square().sum()


def trained(kind: type[torch.optim.Optimizer] = torch.optim.Adam, **settings: Any) -> tuple[Model, Any, dict[str, Any]]:
    torch.manual_seed(0)
    model = Model()
    optimizer = kind(model.parameters(), **settings)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss().backward()
        optimizer.step()
    names = parameter_names(optimizer, model)
    state = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "reidx": {"parameters": names}}
    return model, optimizer, state


def test_only_moments_of_networks_are_handed_on() -> None:
    before, old, state = trained(lr=0.1)
    model = Model(rows=9)  # other clusters, another order of groups, another rate
    weights, rest = model.networks["student"].weight, model.networks["student"].bias
    optimizer = torch.optim.Adam([{"params": [*model.memories.parameters(), rest]}, {"params": [weights]}], lr=0.5)
    load_moments(optimizer, model, state)
    for mine, theirs in ((weights, before.networks["student"].weight), (rest, before.networks["student"].bias)):
        assert torch.equal(optimizer.state[mine]["exp_avg"], old.state[theirs]["exp_avg"])
        assert optimizer.state[mine]["exp_avg"].data_ptr() != old.state[theirs]["exp_avg"].data_ptr()
        assert optimizer.state[mine]["step"] == 3
    assert model.memories["rows"].weight not in optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_next_step_equals_the_old_optimisers() -> None:
    before, old, state = trained(lr=0.1)
    model = Model()
    model.load_state_dict(before.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    load_moments(optimizer, model, state)
    for one, stepper in ((before, old), (model, optimizer)):
        stepper.zero_grad()
        one.loss().backward()
        stepper.step()
    assert torch.equal(before.networks["student"].weight, model.networks["student"].weight)
    assert not torch.equal(before.memories["rows"].weight, model.memories["rows"].weight)  # its moments started from zero


def test_parameter_without_gradient_starts_without_moments() -> None:
    _, _, state = trained(lr=0.1)
    number = state["reidx"]["parameters"].index("networks.student.bias")
    del state["optimizer"]["state"][number]
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    load_moments(optimizer, model, state)
    assert set(optimizer.state) == {model.networks["student"].weight}


def test_moments_that_do_not_fit_are_refused() -> None:
    for width, kind, settings, why in (
        (4, torch.optim.Adam, {}, "has no parameter networks.student.weight of this shape"),
        (3, torch.optim.SGD, {}, "is of another kind, or has no state"),
        (3, torch.optim.SGD, {"momentum": 0.9}, "is of another kind, or has no state"),
        (3, torch.optim.Adam, {"amsgrad": True}, "is of another kind, or has no state"),
    ):
        _, _, state = trained(kind, lr=0.1, **settings)
        model = Model(width)
        with pytest.raises(CheckpointError, match=f"optimization.state_from: that stage's optimiser {why}"):
            load_moments(torch.optim.Adam(model.parameters()), model, state)
