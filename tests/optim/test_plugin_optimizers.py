"""Optimisers and schedules of plugins and of libraries: wiring, checks before training, resumed runs, steps by hand."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reidx
from reidx.cli.main import main
from reidx.data.domains import Domains
from reidx.engine.stage import StageRun
from reidx.errors import ConfigError, PluginError
from reidx.optim import schedule as schedules_module
from reidx.optim.optimizer import build_optimizer
from reidx.optim.schedule import build_schedule, try_rates, with_ends
from reidx.registry.discovery import registry, registry_override
from reidx.registry.library import library
from reidx.registry.registry import Component, Entry
from reidx.reporting.reporter import Reporter
from reidx.runs import checkpoint as checkpoints
from reidx.testing import conformance, optimizer_checks
from reidx.testing.fake_plugins import FakePlugins
from reidx.testing.runs import assert_resumes

PLUGIN = '''
import torch
from reidx import Component, PluginInfo, hookimpl
from reidx.optim import Schedule

@hookimpl
def reidx_plugin():
    return PluginInfo(title="Signs", api=1)

@hookimpl
def reidx_components():
    return [
        Component("optimizer", "Lion", "{module}:Lion", {{"lr": 0.01}}),
        Component("optimizer", "SAM", "{module}:SAM"),
        Component("optimizer", "Broken", "{module}:Broken"),
        Component("schedule", "Inverse", "{module}:Inverse"),
        Component("schedule", "Steps", "{module}:Steps"),
    ]

class Lion(torch.optim.Optimizer):
    """The sign of a mixture of momentum and gradient (Chen et al., 2023)."""

    def __init__(self, params, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> None:
        if not 0 <= betas[0] < 1:
            raise ValueError(f"betas[0] is {{betas[0]}}; it must be from 0 to below 1")
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            one, two = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(mean.lerp(parameter.grad, 1 - one).sign_(), alpha=group["lr"])
                mean.lerp_(parameter.grad, 1 - two)

class SAM(Lion):
    """A step from the gradient at a neighbouring point."""

    def step(self, closure=None):
        assert closure is not None, "SAM requires a closure"

class Broken(Lion):
    """No step at all."""

    def step(self):
        raise KeyError("momentum")

class Inverse(Schedule):
    """One over the square root of the number of epochs or steps."""

    def __init__(self, optimizer, power: float = 0.5, begin: int = 0, end: int | None = None, by_epoch: bool = True) -> None:
        self.power = power
        super().__init__(optimizer, begin, end, by_epoch)

    def factor(self, t: int) -> float:
        return (1 + t) ** -self.power

class Steps(Inverse):
    """The same by step."""

    def __init__(self, optimizer, begin: int = 0, end: int | None = None) -> None:
        super().__init__(optimizer, 0.5, begin, end, False)
'''


@pytest.fixture
def mine(fake_plugins: FakePlugins) -> Iterator[None]:
    """Install the plugin ``mine``."""
    fake_plugins.add("mine", PLUGIN)
    known, plugins = fake_plugins.discover()
    with registry_override(known, [plugin for found in plugins.values() for plugin in found]):
        yield


LION = {"type": "mine.Lion", "lr": 1e-3}
TWO = [{"name": "a", "epochs": 2, "iters": 2}, {"name": "b", "epochs": 2, "iters": 3, "init": "stage:a", "precision": "bf16",
        "optimization": {"state_from": "stage:a"}}]  # fmt: skip


@pytest.mark.usefixtures("mine")
def test_parts_of_plugin_keep_their_contracts() -> None:
    for entry, check in conformance.cases("mine"):
        if entry.component.name in ("Lion", "Inverse"):
            check(entry)


@pytest.mark.usefixtures("mine")
def test_config_has_defaults_of_plugin(experiment: Callable[..., Path]) -> None:
    config = reidx.load_config(experiment(optimizer=LION, schedule=["mine.Inverse"]))
    stage = config.data["stages"][0]
    assert stage["optimizer"] == {**LION, "betas": [0.9, 0.99], "weight_decay": 0.0}
    assert stage["schedule"] == [{"type": "mine.Inverse", "power": 0.5, "begin": 0, "end": None, "by_epoch": True}]


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"type": "mine.Loin"}},
         "There is no optimizer called 'mine.Loin'. Did you mean mine.Lion"),
        ({"optimizer": {"type": "mine.Lion", "beta": 1}}, "optimizer mine.Lion (EXP: stages.0.optimizer): unknown key 'beta'"),
        ({"optimizer": {"type": "mine.Lion", "betas": [2.0, 0.9]}},
         "optimizer mine.Lion (EXP: stages.0.optimizer): betas[0] is 2.0"),
        ({"optimizer": "mine.SAM"}, "stages.0.optimizer: SAM cannot train a stage: without a closure that computes the loss "
         "again, its step fails (AssertionError: SAM requires a closure)"),
        ({"optimizer": "mine.Inverse"}, "mine.Inverse is a schedule, not an optimizer."),
        ({"schedule": [{"type": "mine.Inverse", "powr": 1}]},
         "schedule mine.Inverse (EXP: stages.0.schedule.0): unknown key 'powr'"),
    ],
)  # fmt: skip
def test_mistakes_are_found_from_the_config(
    changes: dict[str, Any], message: str, experiment: Callable[..., Path]
) -> None:
    path = experiment(**changes)
    with pytest.raises(ConfigError) as error:
        reidx.load_config(path)
    assert message in re.sub(r"[\w/-]*experiment\.yaml:\d+", "EXP", str(error.value))


@pytest.mark.usefixtures("mine")
def test_failing_step_names_the_plugin(experiment: Callable[..., Path]) -> None:
    with pytest.raises(PluginError, match=r"optimizer mine.Broken \(from reidx-mine 0.1\) failed in step: KeyError"):
        reidx.load_config(experiment(optimizer="mine.Broken"))


@pytest.mark.usefixtures("mine")
def test_list_and_show_name_both_origins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "optimizer"]) == 0
    out = capsys.readouterr().out
    assert "mine.Lion" in out and "Adam" in out and "timm.Lion" in out
    assert main(["show", "mine.Lion"]) == 0
    assert "optimizer:\n  type: mine.Lion\n  lr: 0.01" in capsys.readouterr().out
    assert main(["show", "timm.Lion"]) == 0
    assert "timm.optim.lion:Lion, from timm" in capsys.readouterr().out


@pytest.mark.usefixtures("mine")
def test_two_stages_of_plugin_resume_exactly(experiment: Callable[..., Path], tmp_path: Path) -> None:
    path = experiment(optimizer=LION, schedule=[{"type": "mine.Inverse", "by_epoch": False}], stages=TWO)
    assert_resumes(reidx.load_config(path), tmp_path, [3, 5])
    first, last = (checkpoints.load(tmp_path / "whole" / name) for name in ("1-a/epoch_2.pth", "2-b/epoch_2.pth"))
    assert first["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-3 * 4**-0.5)  # the stage's last step has t = 3
    assert last["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-3 * 6**-0.5)
    assert last["optimizer"]["state"][0]["mean"].dtype == torch.float32


@pytest.mark.parametrize("name", ["Adam", "timm.Lamb", "timm.Adafactor"])
def test_state_continues_in_next_stage(name: str, experiment: Callable[..., Path], tmp_path: Path) -> None:
    path = experiment(optimizer={"type": name, "lr": 1e-3}, stages=TWO)
    reidx.run(reidx.load_config(path), tmp_path / "run", progress="quiet")
    first, last = (checkpoints.load(tmp_path / f"run/{stage}")["optimizer"] for stage in ("1-a/epoch_2.pth", "2-b/epoch_2.pth"))

    def steps(optimizer: dict[str, Any]) -> float:
        return float(optimizer["param_groups"][0].get("step", optimizer["state"][0].get("step", 0)))

    assert (steps(first), steps(last)) == (4, 10)


# ---- libraries


ARGUMENTS = {
    "MultiStepLR": {"milestones": [3]},
    "StepLR": {"step_size": 2},
    "ExponentialLR": {"gamma": 0.9},
    "CosineRestartLR": {"periods": [12], "eta_min_ratio": 0.1},
}


def of_library(kind: str, name: str) -> Entry:
    entry = registry().find(kind, name)
    example = {"lr": 0.01} if kind == "optimizer" else ARGUMENTS.get(name, {})
    return replace(entry, component=Component(kind, name, entry.component.target, example))


@pytest.mark.parametrize("name", library("optimizer"))
def test_optimiser_of_a_library_keeps_the_contract(name: str) -> None:
    entry = of_library("optimizer", name)
    optimizer_checks.steps_without_a_closure(entry)
    optimizer_checks.resumes_bit_for_bit(entry)
    if name not in ("Rprop", "timm.MADGRAD"):  # Rprop adapts its steps to the signs, MADGRAD adds eps to the rate
        optimizer_checks.follows_the_rate_of_each_group(entry)


@pytest.mark.parametrize("name", sorted(set(library("schedule")) - {"OneCycleLR"}))  # whose eta_max is one rate for all groups
def test_schedule_of_a_library_keeps_the_contract(name: str) -> None:
    optimizer_checks.sets_finite_rates(of_library("schedule", name))


# ---- schedules by step

WARM_UP = {"type": "LinearLR", "start_factor": 0.25, "end": 3, "by_epoch": False}
DECAY = {"type": "MultiStepLR", "milestones": [1], "gamma": 0.1}


def rates_by_hand(epochs: int, iters: int) -> list[float]:
    """Rates of the steps for lr 1: from 1/4 to 1 in 3 steps, then a tenth from epoch 1 on."""
    return [min(1.0, 0.25 + 0.75 * step / 2) * (0.1 if step // iters >= 1 else 1.0) for step in range(epochs * iters)]


def rates_of(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **run: Any) -> list[float]:
    """Train the first stage and return the learning rate of each step."""
    found: list[float] = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *a: (found.append(self.param_groups[0]["lr"]), step(self, *a))[1])
    config = reidx.load_config(path)
    stage = StageRun(config.experiment.stages[0], 0, 1, Domains(config.data["data"]), folder, Path, Reporter("quiet"))
    stage.run(**{"resume": False, **run})
    monkeypatch.undo()
    return found


def test_warm_up_by_step_equals_a_loop(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sgd = {"type": "SGD", "lr": 1.0}
    two = [{"name": "a", "epochs": 2, "iters": 4}]
    path = experiment(optimizer=sgd, clip_grad=0.01, schedule=[WARM_UP, DECAY], stages=two)
    expected = [0.25, 0.625, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1]  # by hand
    assert rates_by_hand(2, 4) == expected
    assert rates_of(path, tmp_path / "run", monkeypatch) == pytest.approx(expected)
    # a run of one epoch more, from the first's checkpoint, with its schedules computed from the config
    three = experiment(optimizer=sgd, clip_grad=0.01, schedule=[WARM_UP, DECAY], stages=[{**two[0], "epochs": 3}])
    more = rates_of(three, tmp_path / "run", monkeypatch, resume="anyway")
    assert more == pytest.approx(rates_by_hand(3, 4)[8:])


def test_end_is_that_of_the_stage() -> None:
    specs = [{"type": "LinearLR"}, {"type": "LinearLR", "by_epoch": False}, {"type": "LinearLR", "end": 2, "by_epoch": False}]
    assert [spec["end"] for spec in with_ends(specs, 5, 100)] == [5, 500, 2]
    optimizer = build_optimizer(nn.Linear(1, 1), {"type": "SGD", "lr": 1.0})
    schedule = build_schedule({"type": "CosineAnnealingLR", "begin": 1, "end": 5, "by_epoch": False}, optimizer)
    assert (schedule.by_epoch, schedule.end) == (False, 5)


@pytest.mark.usefixtures("mine")
def test_schedule_by_step_has_an_argument_for_it(experiment: Callable[..., Path]) -> None:
    with pytest.raises(PluginError, match=r"mine\.Steps .* counts steps and has an argument `end`, but none `by_epoch`"):
        reidx.load_config(experiment(schedule=["mine.Steps"]))


CYCLE = {"type": "OneCycleLR", "eta_max": 0.1, "by_epoch": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": [{**CYCLE, "total_steps": 6}]}, ""),
        ({"schedule": [{**CYCLE, "total_steps": 3}]}, "schedule.0: OneCycleLR fails within its 6 steps: Tried to step"),
        ({"schedule": [{**CYCLE, "total_steps": 3, "end": 4}]}, ""),
        ({"schedule": [{"type": "CosineRestartLR", "periods": [2, 2], "eta_min": 0}]},
         "stages.0.schedule.0): periods and restart_weights should have the same length"),
    ],
)  # fmt: skip
def test_schedule_of_a_library_lasts_as_long_as_it_says(changes, message, experiment: Callable[..., Path]) -> None:
    if not message:
        reidx.load_config(experiment(**changes))
        return
    with pytest.raises(ConfigError) as error:
        reidx.load_config(experiment(**changes))
    assert message in str(error.value)


SIX = [{"name": "a", "epochs": 3, "iters": 4}]
FALLS = {"type": "LinearLR", "start_factor": 1.0, "end_factor": 0.5}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([FALLS], ""),
        ([{**FALLS, "by_epoch": False}], ""),
        ([{"type": "MultiStepLR", "milestones": [2], "gamma": -0.1}],
         "stages.0.schedule.0: MultiStepLR sets a learning rate of -0.1 in epoch 3 of 3. Correct its values, or end it"),
        ([{"type": "MultiStepLR", "milestones": [5, 9], "gamma": -0.1, "by_epoch": False}],
         "stages.0.schedule.0: MultiStepLR sets a learning rate of -0.1 in epoch 2 of 3, step 2 of 4."),
        ([{**WARM_UP, "end": 6}, {"type": "MultiStepLR", "milestones": [2], "gamma": -1.0}],
         "stages.0.schedule.1: MultiStepLR sets a learning rate of -1 in epoch 3 of 3, step 1 of 4."),
        ([{"type": "MultiStepLR", "milestones": [2], "gamma": -1.0, "end": 2}], ""),  # it ends before
        ([{"type": "ConstantLR", "factor": 0.5}, {"type": "MultiStepLR", "milestones": [0], "gamma": -1.0}],
         "stages.0.schedule.1: MultiStepLR sets a learning rate of -0.5 in epoch 1 of 3"),
        ([{"type": "MultiStepLR", "milestones": [20], "gamma": -1.0, "by_epoch": False, "end": 100}], ""),  # after the stage
    ],
)  # fmt: skip
def test_first_negative_rate_is_found_before_training(schedule, message, experiment: Callable[..., Path]) -> None:
    path = experiment(optimizer={"type": "SGD", "lr": 1.0}, schedule=schedule, stages=SIX)
    if not message:
        reidx.load_config(path)
        return
    with pytest.raises(ConfigError) as error:
        reidx.load_config(path)
    assert message in str(error.value)


def test_tried_rates_are_those_of_the_run(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dry run sees each rate of a warm-up by step, and afterwards that of each epoch."""
    tried: list[float] = []
    odd = schedules_module._odd_rates

    def watched(optimizer: torch.optim.Optimizer) -> list[float]:
        tried.append(optimizer.param_groups[0]["lr"])
        return odd(optimizer)

    path = experiment(optimizer={"type": "SGD", "lr": 1.0}, clip_grad=0.01, schedule=[WARM_UP, DECAY], stages=SIX)
    run = rates_of(path, tmp_path / "run", monkeypatch)
    monkeypatch.setattr(schedules_module, "_odd_rates", watched)
    optimizer = build_optimizer(nn.Linear(1, 1), {"type": "SGD", "lr": 1.0})
    try_rates([{**WARM_UP}, {**DECAY, "end": 3}], optimizer, 3, 4, str)
    both = [[rate for rate, _ in itertools.groupby(rates)] for rates in (tried, run)]
    assert both[0][0] == 1.0 and both[0][1:] == pytest.approx(both[1]) and len(both[1]) == 4


def test_long_stages_are_tried_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules_module, "TRIED", 5)
    late = [{"type": "MultiStepLR", "milestones": [5], "gamma": -1.0, "by_epoch": False, "end": 10**9}]
    one, other = (build_optimizer(nn.Linear(1, 1), {"type": "SGD", "lr": 1.0}) for _ in range(2))
    try_rates(late, one, 10**6, 10**3, str)
    with pytest.raises(ConfigError, match="0: MultiStepLR sets a learning rate of -1 in epoch 1 of 1000000, step 5 of 1000"):
        try_rates([{**late[0], "milestones": [4]}], other, 10**6, 10**3, str)
