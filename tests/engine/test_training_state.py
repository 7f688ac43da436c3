"""The fields of a checkpoint, and runs of another format."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

import reidx
from reidx.errors import CheckpointError, ConfigError
from reidx.runs import checkpoint as checkpoints
from reidx.runs.record_form import FORMAT
from reidx.runs.training_state import KEY, TrainingState
from reidx.testing.runs import unchanged

Whole = tuple[Path, Path]


def test_checkpoint_holds_the_listed_fields(whole: Whole) -> None:
    content = checkpoints.load(whole[1] / "2-adapt/epoch_2.pth")
    assert set(content[KEY]) == {field.name for field in fields(TrainingState)}
    state = TrainingState.of(content)
    assert [entry["epoch"] for entry in state.history] == [1, 2]
    assert (state.steps, state.world_size, set(state.labels), set(state.memories)) == (6, 1, {"main"}, {"rows"})
    assert state.stamp is not None and state.stamp["stage"] == "adapt"


@pytest.mark.parametrize("name", [field.name for field in fields(TrainingState)])
def test_missing_field_is_named(whole: Whole, name: str) -> None:
    content = checkpoints.load(whole[1] / "2-adapt/epoch_2.pth")
    del content[KEY][name]
    with pytest.raises(CheckpointError, match=f"another version of reidx .*{name}"):
        TrainingState.of(content)


def test_unknown_field_is_named(whole: Whole) -> None:
    content = checkpoints.load(whole[1] / "2-adapt/epoch_2.pth")
    content[KEY]["loop"] = {}
    with pytest.raises(CheckpointError, match=r"another version of reidx .*loop"):
        TrainingState.of(content)


@pytest.mark.parametrize("resume", [True, "anyway"])
@pytest.mark.parametrize("theirs", [None, FORMAT + 1])
def test_run_of_another_format_is_refused(whole: Whole, unfinished: Path, theirs: int | None, resume: bool | str) -> None:
    path = next(unfinished.glob("*.json"))
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record.pop("format") == FORMAT
    path.write_text(json.dumps(record if theirs is None else {**record, "format": theirs}), encoding="utf-8")
    with unchanged(unfinished), pytest.raises(ConfigError) as error:
        reidx.run(reidx.load_config(whole[0]), unfinished, resume=resume, progress="quiet")  # type: ignore[arg-type]
    message = str(error.value)
    formats = f"its format is {theirs or 1}, not {FORMAT}"
    assert message.startswith(f"{unfinished} was started by another version of reidx ({formats})")
    assert "\n" not in message
