"""``precision: auto`` chooses the faster precision of the device; a run keeps its choice and records it with its results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.engine import precision
from reidx.errors import ConfigError
from reidx.machine import devices
from reidx.runs.stage_cache import stage_key
from reidx.testing.tiny import tiny_experiment, write_experiment

CPU = torch.device("cpu")
STAGES = [
    {"name": "warm", "epochs": 1, "iters": 1, "precision": "auto"},
    {"name": "adapt", "epochs": 1, "iters": 1, "precision": "auto", "init": "stage:warm"},
]
UNITS = "avx512_bf16"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Return a function that fakes bf16 units and measured speeds, and returns the speeds not measured yet."""

    def be(units: str | None, *speeds: float) -> list[float]:
        left = list(speeds)
        monkeypatch.setattr(devices, "bf16_units", lambda device=CPU: units)
        monkeypatch.setattr(devices, "no_bf16_units", lambda device=CPU: "this CPU has none")
        monkeypatch.setattr(devices, "bf16_speed", lambda device=CPU: left.pop(0))
        return left

    return be


@pytest.fixture
def config(tmp_path: Path, domains_root: Path) -> Callable[..., reidx.Config]:
    """Return a function that loads an experiment of two stages, both with ``precision: auto``, with overrides."""
    path = write_experiment(tmp_path / "auto.yaml", tiny_experiment(domains_root, stages=STAGES, log=[]))
    return lambda *overrides: reidx.load_config(path, overrides)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that fills with the precisions of the stages of each run, in order."""
    seen: list[str] = []
    original = precision.Precisions.apply

    def apply(self: precision.Precisions, stages: Any) -> Any:
        resolved = original(self, stages)
        seen.extend(stage.precision for stage in resolved)
        return resolved

    monkeypatch.setattr(precision.Precisions, "apply", apply)
    return seen


def stages_of(config: Callable[..., reidx.Config], *overrides: str) -> Any:
    return config(*overrides).experiment.stages


def test_default_is_auto(domains_root: Path, tmp_path: Path) -> None:
    plain = {key: value for key, value in tiny_experiment(domains_root).items() if key != "precision"}
    assert reidx.load_config(write_experiment(tmp_path / "plain.yaml", plain)).experiment.stages[0].precision == "auto"


@pytest.mark.parametrize(
    ("units", "speeds", "chosen", "note"),
    [
        (UNITS, (2.13,), "bf16", "precision auto: bf16 (avx512_bf16; a step of convolutions is 2.1 times as fast as in fp32)"),
        (UNITS, (0.8, 0.9, 1.7), "bf16", "1.7 times as fast"),  # one measurement on a busy machine does not decide
        (UNITS, (0.8, 0.4, 0.5), "fp32", "1.2 times slower in bf16 than in fp32 despite avx512_bf16"),
        (UNITS, (0.0, 0.0, 0.0), "fp32", "refused in bf16 despite avx512_bf16"),
        (None, (), "fp32", "precision auto: fp32, as this CPU has none"),
    ],
)
def test_auto_needs_units_and_a_measured_gain(machine, config, units, speeds, chosen: str, note: str) -> None:
    left = machine(units, *speeds)
    found = precision.choose(stages_of(config), CPU)
    assert found.of == found.auto == {"warm": chosen, "adapt": chosen} and not left
    assert len(found.notes) == 1 and note in found.notes[0]
    assert [stage.precision for stage in found.apply(stages_of(config))] == [chosen, chosen]


def test_set_precision_is_not_measured_with_units(machine, config) -> None:
    machine(UNITS)
    found = precision.choose(stages_of(config, "stages.warm.precision=bf16", "stages.adapt.precision=fp32"), CPU)
    assert found.of == {"warm": "bf16", "adapt": "fp32"}
    assert (found.auto, found.notes) == ({}, [])


def test_set_bf16_without_units_warns(machine, config) -> None:
    machine(None, 0.08)
    found = precision.choose(stages_of(config, "stages.warm.precision=bf16"), CPU)
    assert found.of == {"warm": "bf16", "adapt": "fp32"}
    assert "12.5 times slower" in found.notes[-1] and "precision: auto" in found.notes[-1]


def test_set_bf16_that_torch_refuses(machine, config) -> None:
    machine(None, 0.0)
    with pytest.raises(ConfigError, match=r"torch refuses here: this CPU has none.*precision: auto"):
        precision.choose(stages_of(config, "stages.warm.precision=bf16"), CPU)


def test_precision_is_on_card_and_record(machine, config, used, tmp_path: Path, capsys) -> None:
    machine(UNITS, 2.0)
    result = reidx.run(config(), tmp_path / "run", progress="plain")
    assert used == ["bf16", "bf16"]
    assert [stage["precision"] for stage in result.card["stages"].values()] == ["bf16", "bf16"]
    record = json.loads((tmp_path / "run/experiment.json").read_text(encoding="utf-8"))
    assert record["provenance"]["precision"] == {"warm": "bf16", "adapt": "bf16"}
    assert capsys.readouterr().err.count("precision auto: bf16") == 1


@pytest.mark.parametrize(("begun", "units", "speeds"), [("bf16", None, (0.1,)), ("fp32", UNITS, ())])
def test_resume_keeps_the_precision_on_another_machine(
    machine, config, used, tmp_path: Path, capsys, begun: str, units: str | None, speeds: tuple[float, ...]
) -> None:
    machine(*((UNITS, 2.0) if begun == "bf16" else (None,)))
    reidx.run(config(), tmp_path / "run", progress="quiet")
    shutil.rmtree(tmp_path / "run/2-adapt")
    (tmp_path / "run/result.json").unlink()
    used.clear()
    left = machine(units, *speeds)
    result = reidx.run(config(), tmp_path / "run", resume=True, progress="plain")
    assert used == [begun, begun]
    assert result.card["stages"]["adapt"]["precision"] == begun
    assert not left
    output = capsys.readouterr().err
    assert ("10.0 times slower than in fp32" in output) == (begun == "bf16")
    assert begun == "bf16" or "precision auto: fp32, as when the run started" in output


def test_resume_in_bf16_that_torch_refuses(machine, config) -> None:
    machine(None, 0.0)
    with pytest.raises(ConfigError, match=r"started in bf16.*--set precision=fp32 --resume-anyway"):
        precision.choose(stages_of(config), CPU, {"warm": "bf16", "adapt": "bf16"})


def test_finished_stages_need_no_warning(machine, config) -> None:
    left = machine(None, 0.1)
    found = precision.choose(stages_of(config), CPU, {"warm": "bf16", "adapt": "bf16"}, {"warm", "adapt"})
    assert found.of == {"warm": "bf16", "adapt": "bf16"}
    assert (found.notes, left) == ([], [0.1])


def test_shared_stages_differ_by_precision(machine, config, tmp_path: Path) -> None:
    around = {"data": {"target": {}}, "code": {}, "torch": "2", "timm": "1", "threads": 1, "processes": 1}
    auto = [stage_key(config(), 1, {**around, "precision": dict.fromkeys(("warm", "adapt"), p)}) for p in ("bf16", "fp32")]
    named = [config(*(f"stages.{s}.precision={p}" for s in ("warm", "adapt"))) for p in ("bf16", "fp32")]
    by_hand = [stage_key(one, 1, {**around, "precision": {}}) for one in named]
    assert auto[0] != auto[1] and auto == by_hand
    mixed = stage_key(config(), 1, {**around, "precision": {"warm": "bf16", "adapt": "fp32"}})
    assert mixed not in auto  # the precision of the stage before counts too
    machine(UNITS, 2.0)
    reidx.run(config(), tmp_path / "a", progress="quiet", share=tmp_path / "shared")
    machine(None)
    other = reidx.run(config(), tmp_path / "b", progress="quiet", share=tmp_path / "shared")
    assert "taken_over" not in other.card and other.card["stages"]["warm"]["precision"] == "fp32"
