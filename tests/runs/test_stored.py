"""Runs as their folders show them: states with reasons, the table of a folder, its other formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reidx.cli.main import main
from reidx.errors import CheckpointError, ConfigError, ReidxError, Terminated
from reidx.runs.failure_note import NAME, failure_noted, noted_failure, remove_note
from reidx.runs.lock import exclusive_folder, holder_of
from reidx.runs.stamp import write_sealed
from reidx.runs.stored import folders_of_runs, read_run, stored_run

CONFIG = """
name: tiny
seed: 3
data: {domains: {target: {type: mine.People, root: data}, half: {type: CameraSplit, of: {type: Market1501, root: data}}}}
stages:
  - {name: first, epochs: 1, model: {backbone: {type: osnet.OSNet}}, memories: {a: {memory: {type: spcl.HybridMemory}}}}
  - {name: second, epochs: 2, objective: [{loss: {type: lp.FeatureDistil}}], evaluate: {domain: target}}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a run whose second stage has committed some of its two epochs."""

    def write(name: str, epochs: int = 1, done: bool = False) -> Path:
        folder = tmp_path / "runs" / name
        for stage in ("1-first", "2-second"):
            (folder / stage).mkdir(parents=True)
        (folder / "config.yaml").write_text(CONFIG)
        (folder / "experiment.json").write_text(json.dumps({"hash": "abc", "name": "tiny"}))
        first = {"before": {}, "history": [{"epoch": 1, "loss": 1.0, "seconds_train": 30.0}], "card": {"bn_group": 64}}
        write_sealed(folder / "1-first/done.json", first, None)
        history = [{"epoch": n + 1, "mAP": 0.25 * (n + 1), "rank-1": 0.5, "seconds_train": 60.0} for n in range(epochs)]
        if done:
            write_sealed(folder / "2-second/done.json", {"before": {}, "history": history, "card": {}}, None)
            (folder / "result.json").write_text(json.dumps({"metrics": {}, "card": {"seconds": 150.0}}))
        else:
            write_sealed(folder / "2-second/before.json", {"before": {"mAP": 0.1, "rank-1": 0.2}}, None)
            (folder / "2-second/log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history) + '{"epo')
        return folder

    return write


def test_states_of_runs(write: Write) -> None:
    done, running, interrupted, failed, broken = (write(name, 2, name == "done") for name in ("done", "a", "b", "c", "d"))
    (failed / NAME).write_text(json.dumps({"reason": "out of memory"}))
    (broken / "1-first/done.json").write_text("{")
    (interrupted / ".lock").write_text("process 1 on a machine that was switched off")
    with exclusive_folder(running, "being trained in"):
        found = [stored_run(folder) for folder in (done, running, interrupted, failed, broken)]
    assert [run.state for run in found] == ["finished", "running", "interrupted", "failed", "unreadable"]
    assert found[1].reason.startswith("process ") and found[3].reason == "out of memory" and "done.json" in found[4].reason
    assert holder_of(running) is None and (interrupted / ".lock").read_text().startswith("process 1"), "nothing is written"


def test_numbers_are_those_of_the_committed_epochs(write: Write) -> None:
    run = read_run(write("one"))
    assert run.epochs == (2, 3) and run.metrics == {"mAP": 0.25, "rank-1": 0.5} and run.seconds == 90.0
    assert run.method == "spcl, lp" and run.data == "mine.People, Market1501"
    assert read_run(write("none", epochs=0)).metrics == {"mAP": 0.1, "rank-1": 0.2}, "the evaluation before the first epoch"
    whole = read_run(write("done", 2, True))
    assert whole.card == {"seconds": 150.0} and whole.cards == {"first": {"bn_group": 64}}


def test_added_epochs_make_a_finished_run_unfinished(write: Write) -> None:
    folder = write("done", 2, True)
    (folder / "config.yaml").write_text(CONFIG.replace("epochs: 2", "epochs: 5"))
    assert read_run(folder).state == "interrupted" and read_run(folder).epochs == (3, 6)


def test_table_fits_the_terminal(write: Write, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    write("market1501-seed1", 2, True)
    (write("other") / NAME).write_text(json.dumps({"reason": "a reason that is long " * 9}))
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["run", "state", "epochs", "mAP", "rank-1", "time", "method", "and", "data"]
    assert lines[1].split()[:7] == ["market1501-seed1", "finished", "3/3", "50.00", "50.00", "2", "min"]
    assert "other failed: a reason that is long" in "\n".join(lines)


def test_formats_have_the_same_numbers(write: Write, tmp_path: Path, capsys) -> None:
    write("a|b", 2, True)
    outputs = {}
    for form in ("json", "csv", "md"):
        assert main(["runs", str(tmp_path / "runs"), "--format", form]) == 0
        outputs[form] = capsys.readouterr().out
    (record,) = json.loads(outputs["json"])
    assert (record["run"], record["state"], record["mAP"], record["reason"]) == ("a|b", "finished", 0.5, None)
    (row,) = csv.DictReader(io.StringIO(outputs["csv"]))
    assert row == {key: "" if value is None else str(value) for key, value in record.items()}
    head, rule, line = outputs["md"].splitlines()
    assert head.count("|") == rule.count("|") == line.count("|") - 1 and line.startswith("| a\\|b | tiny | 3 | abc |")


def test_folders_of_ablations_are_searched(write: Write, tmp_path: Path) -> None:
    folder = write("one")
    grid = tmp_path / "runs/ablate-x/runs"
    grid.mkdir(parents=True)
    folder.rename(grid / "one")
    assert folders_of_runs(tmp_path / "runs") == [grid / "one"] == folders_of_runs(tmp_path / "runs/ablate-x")


def test_folder_without_runs_is_an_error(tmp_path: Path, capsys) -> None:
    for folder, message in ((tmp_path, "contains no runs"), (tmp_path / "none", "is no folder"), (Path(__file__), "is a file")):
        assert main(["runs", str(folder)]) == 1
        assert message in capsys.readouterr().err


def test_failure_is_noted_once_the_session_has_begun(tmp_path: Path) -> None:
    for begun in (False, True):
        with pytest.raises(ReidxError), failure_noted(tmp_path, lambda: begun):  # noqa: B023
            raise ReidxError("no room")
        assert noted_failure(tmp_path) == ("no room" if begun else None)
    with pytest.raises(ZeroDivisionError), failure_noted(tmp_path, lambda: True):
        raise ZeroDivisionError("by\nzero")
    assert noted_failure(tmp_path) == "ZeroDivisionError: by zero"
    remove_note(tmp_path)
    remove_note(tmp_path)
    for end in (KeyboardInterrupt, Terminated("ended"), CheckpointError("of another run"), ConfigError("another config")):
        with pytest.raises(type(end) if isinstance(end, BaseException) else end), failure_noted(tmp_path, lambda: True):
            raise end
    assert noted_failure(tmp_path) is None


def test_failure_without_room_for_its_note(tmp_path: Path) -> None:
    with pytest.raises(ReidxError, match="the failure"), failure_noted(tmp_path / "gone", lambda: True):
        raise ReidxError("the failure")
