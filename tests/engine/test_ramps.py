"""Weights that change by epoch: formulas, config keys, the log, resumed runs, grids."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reidx
from reidx.ablation.grid import read_grid
from reidx.ablation.plan import plan_of
from reidx.config.schema import Ramp
from reidx.engine.objective import BoundAlignment, Objective
from reidx.engine.ramps import weight_at
from reidx.errors import ConfigError
from reidx.testing.runs import assert_resumes

TERM = {"loss": "CrossEntropy", "memory": "rows"}


def test_linear_ramp_by_hand() -> None:
    ramp = Ramp(epochs=4, from_=0.2, to=1.0, from_epoch=2)
    assert [weight_at(ramp, e) for e in range(9)] == pytest.approx([0.2, 0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])
    assert weight_at(Ramp(epochs=2, from_=1.0, to=0.0), 1) == 0.5
    assert weight_at(3.0, 7) == 3.0


@pytest.mark.parametrize(
    ("shape", "by_hand", "formula"),
    [
        ("cosine", [0.0, 0.146447, 0.5, 0.853553, 1.0], lambda t: math.sin(math.pi * t / 2) ** 2),
        ("sigmoid", [0.006738, 0.060055, 0.286505, 0.731616, 1.0], lambda t: 1 / math.e ** (5 - 10 * t + 5 * t * t)),
        ("dann", [0.0, 0.848284, 0.986614, 0.998894, 0.999909], lambda t: math.tanh(5 * t)),
    ],
)
def test_shapes_begin_and_end_as_their_formulas(shape: str, by_hand: list[float], formula: Callable[[float], float]) -> None:
    ramp = Ramp(epochs=4, from_=1.0, to=3.0, shape=shape)  # type: ignore[arg-type]
    assert [weight_at(ramp, e) for e in range(5)] == pytest.approx([1 + 2 * value for value in by_hand], abs=2e-6)
    assert [weight_at(ramp, e) for e in range(5)] == pytest.approx([1 + 2 * formula(e / 4) for e in range(5)])
    later = Ramp(epochs=4, from_=1.0, to=3.0, from_epoch=2, shape=shape)  # type: ignore[arg-type]
    assert [weight_at(later, e) for e in (0, 1, 2, 9)] == [1.0, 1.0, weight_at(ramp, 0), weight_at(ramp, 4)]


class Two(nn.Module):
    """Alignment with the value 2."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return 2 * source


def test_ramp_of_an_alignment_scales_its_gradient() -> None:
    slot = {"source": "a", "target": "b", "weight": Ramp(epochs=4, to=8.0), "from_epoch": 1}
    objective = Objective([BoundAlignment("Two", Two(), slot)])
    expected = {0: (0.0, {}), 1: (2.0, {"Two.weight": 2.0}), 3: (6.0, {"Two.weight": 6.0}), 9: (8.0, {"Two.weight": 8.0})}
    for epoch, (weight, logged) in expected.items():
        value, objective.epoch = torch.ones((), requires_grad=True), epoch
        total, values = objective({"student": {"a": value, "b": value}}, {}, {})
        total.backward()
        assert objective.changing_weights() == logged
        assert value.grad is None if epoch == 0 else (value.grad == 2 * weight and values["Two"] == 2)


def test_ramp_is_logged_and_resumes_exactly(experiment: Callable[..., Path], tmp_path: Path) -> None:
    ramp = {"epochs": 2, "from": 0.5, "to": 2.5}
    path = experiment(objective=[{**TERM, "weight": ramp}], stages=[{"name": "a", "epochs": 3, "iters": 2}])
    config = reidx.load_config(path)
    assert config.data["stages"][0]["objective"][0]["weight"] == {**ramp, "from_epoch": 0, "shape": "linear"}
    assert_resumes(config, tmp_path, [3])
    history = json.loads((tmp_path / "interrupted" / "1-a" / "done.json").read_text())["history"]
    assert [entry["CrossEntropy.weight"] for entry in history] == [0.5, 1.5, 2.5]
    for entry in history:
        assert entry["loss"] == pytest.approx(entry["CrossEntropy.weight"] * entry["CrossEntropy"], rel=1e-5)
    plain = reidx.run(reidx.load_config(path, ["objective.0.weight=1.0"]), tmp_path / "plain", progress="quiet")
    assert "CrossEntropy.weight" not in plain.stages[0].history[0]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("high", "objective.0.weight is 'high' (a string); expected float"),
        (None, "objective.0.weight is null; expected float"),
        ({"to": 2.0}, "objective.0.weight.epochs is missing"),
        ({"epochs": 0}, "objective.0.weight.epochs is 0; it must be from 1"),
        ({"epochs": 2, "form": 0.5}, "unknown key 'stages.0.objective.0.weight.form'. Did you mean from?"),
        ({"epochs": 2, "shape": "cosin"}, "expected one of linear, cosine, sigmoid, dann"),
    ],
)
def test_odd_weights_are_refused(weight: object, message: str, experiment: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError) as error:
        reidx.load_config(experiment(objective=[{**TERM, "weight": weight}]))
    assert message in str(error.value)


def test_overrides_and_grids_set_ramps(experiment: Callable[..., Path], tmp_path: Path) -> None:
    path = experiment(objective=[{**TERM, "weight": {"epochs": 2}}])
    for override, expected in {
        "objective.0.weight.to=3": Ramp(epochs=2, to=3),
        "objective.0.weight={epochs: 5, shape: dann}": Ramp(epochs=5, shape="dann"),
        "objective.0.weight=0.5": 0.5,
    }.items():
        assert reidx.load_config(path, [override]).experiment.stages[0].objective[0].weight == expected
    grid = tmp_path / "grid.yaml"
    grid.write_text(path.read_text() + "ablate:\n  axes:\n    objective.0.weight: [1.0, {epochs: 2, shape: sigmoid}]\n")
    weights = [run.config.experiment.stages[0].objective[0].weight for run in plan_of(read_grid(grid), tmp_path).runs]
    assert weights == [1.0, Ramp(epochs=2, shape="sigmoid")]


def test_rendered_ramp_loads_to_the_same(experiment: Callable[..., Path], tmp_path: Path) -> None:
    config = reidx.load_config(experiment(objective=[{**TERM, "weight": {"epochs": 2, "from": 0.1}}]))
    for changed in (False, True):
        again = tmp_path / "again.yaml"
        again.write_text(config.render(changed=changed), encoding="utf-8")
        assert reidx.load_config(again).experiment == config.experiment
