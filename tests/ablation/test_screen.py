"""Display of a running ablation: a table that names each run, lines, or events."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from reidx.ablation import schedule
from reidx.ablation.executor import Outcome
from reidx.ablation.follow import LogTail
from reidx.ablation.plan import Plan, Run
from reidx.ablation.schedule import SweepState, carry_out
from reidx.ablation.screen import Events, Lines, LiveTable, summary
from reidx.config import config
from reidx.errors import Terminated


@pytest.fixture
def sweep(planned: Callable[..., Plan]) -> SweepState:
    """Five runs: one done, one running, one failed and two waiting; one combination is refused."""
    refiners = {"off": {}, "on": {"labels.refiners": [{"type": "pplr.CrossAgreement"}]}}
    plan = planned(axes={"clusterer.eps": [0.7, 0.6, 0.5, 0.4, 0.3], "refiner": refiners})
    one, two, three, *rest = plan.runs
    follower = LogTail(two.log)
    follower._take({"event": "run_start", "stages": [{"name": "adapt", "epochs": 4, "iters": 10}]})
    follower._take({"event": "epoch_end", "stage": "adapt", "epoch": 1, "run_seconds_left": 90.0})
    done = {one.hash: {"metrics": {"mAP": 0.5, "rank-1": 0.75}, "card": {"seconds": 6.0}}}
    return SweepState(plan, 1, rest, {two.hash: (two, follower)}, done, {three.hash: "out of memory"})


def test_table_has_all_runs_with_their_progress(sweep: SweepState) -> None:
    screen = io.StringIO()
    table = LiveTable(Console(file=screen, width=140, height=40, force_terminal=True, color_system=None))
    table.looked(sweep)
    table.close()
    lines = {line.split(", seed")[0].strip(): line for line in screen.getvalue().splitlines() if ", seed" in line}
    assert "adapt 1/4 ━━━╌╌╌╌╌╌╌╌╌" in lines["clusterer.eps=0.6"] and "90 s" not in lines["base"]
    assert "done" in lines["base"] and "50.00" in lines["base"]
    assert "failed" in lines["clusterer.eps=0.5"] and "out of memory" in lines["clusterer.eps=0.5"]
    assert "waiting" in lines["clusterer.eps=0.4"] and "waiting" in lines["clusterer.eps=0.3"]
    assert "1 of 5 runs done, 1 failed, 1 running, 1 combination refused · about" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is visible again


def test_conditions_stand_above_the_table(sweep: SweepState) -> None:
    (done,) = sweep.done.values()
    evaluation = {"protocol": "market1501", "camera_filter": True, "metric": "cosine"}
    done["card"]["stages"] = {"adapt": {"precision": "fp32", "evaluation": evaluation}}
    screen = io.StringIO()
    table = LiveTable(Console(file=screen, width=140, height=8, force_terminal=True, color_system=None))
    table.looked(sweep)
    table.close()
    lines = screen.getvalue().splitlines()
    assert "protocol market1501 (own camera ignored) · cosine distance · fp32" in lines[0]
    assert lines[1].split() == ["run", "state", "where", "mAP", "left"]
    assert "… and 1 more" in screen.getvalue()


def test_long_names_are_cut_in_their_middle(planned: Callable[..., Plan]) -> None:
    screen = io.StringIO()
    table = LiveTable(Console(file=screen, width=80, height=40, force_terminal=True, color_system=None))
    axes = {"a long name of an axis": {"one": {}, "an even longer value of it": {"stages.adapt.epochs": 4}}}
    table.looked(SweepState(planned(axes=axes, seeds=[1, 23])))
    table.close()
    assert "value of it, seed 23" in screen.getvalue() and "a long" in screen.getvalue()
    assert all(len(line) <= 80 for line in screen.getvalue().splitlines() if "seed" in line)


def test_low_terminal_shows_running_runs_first(sweep: SweepState) -> None:
    screen = io.StringIO()
    sweep.failed = dict.fromkeys(sweep.failed, "out of memory, as the images are too many " * 5)
    table = LiveTable(Console(file=screen, width=80, height=9, force_terminal=True, color_system=None))
    table.looked(sweep)
    table.close()
    assert "adapt 1/4" in screen.getvalue() and "… and 1 more" in screen.getvalue()
    assert "50.00" in screen.getvalue()  # only a long reason is cut, never a number
    assert all(len(line) <= 80 for line in screen.getvalue().splitlines() if "seed" in line)


class Breaking:
    """Executor whose runs end by ``how`` at the first look, and whose ``close`` fails if ``stuck``."""

    slots = 1

    def __init__(self, how: Callable[[], Outcome | None], stuck: bool) -> None:
        self.outcome, self.stuck = how, stuck

    def start(self, run: Run) -> Breaking:
        return self

    def stop(self) -> None:
        pass

    def close(self) -> None:
        if self.stuck:
            raise OSError("stuck")


def ctrl_c() -> None:
    raise KeyboardInterrupt


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def broken() -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize("stuck", [False, True])
@pytest.mark.parametrize(("how", "error"), [(ctrl_c, KeyboardInterrupt), (terminated, Terminated), (broken, RuntimeError)])
def test_terminal_is_restored_after_any_end(
    planned: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[[], None],
    error: type[BaseException],
    stuck: bool,
) -> None:
    monkeypatch.setattr(schedule, "EVERY", 0.01)
    sweep = schedule.sweep_state_of(planned(axes={"clusterer.eps": [0.7, 0.6]}))
    screen, before = io.StringIO(), (sys.stdout, sys.stderr)
    table = LiveTable(Console(file=screen, width=140, height=40, force_terminal=True, color_system=None))
    try:
        with pytest.raises(OSError if stuck else error):
            carry_out(sweep, Breaking(how, stuck), table)
        assert (sys.stdout, sys.stderr) == before and "running" in screen.getvalue()
        assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is visible again
    finally:
        table.live.stop()


def test_closed_table_does_not_restart(sweep: SweepState) -> None:
    screen, before = io.StringIO(), sys.stdout
    table = LiveTable(Console(file=screen, width=140, height=40, force_terminal=True, color_system=None))
    table.looked(sweep)
    table.close()
    shown = screen.getvalue()
    try:
        table.looked(sweep)
        table.close()
        assert screen.getvalue() == shown and sys.stdout is before
    finally:
        table.live.stop()


def test_hash_of_a_run_is_computed_once(sweep: SweepState, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    known = config.experiment_hash
    monkeypatch.setattr(config, "experiment_hash", lambda data: asked.append(known(data)) or asked[-1])
    runs = [Run(run.config, run.home) for run in sweep.plan.runs]
    assert [run.hash for run in runs] == [run.hash for run in sweep.plan.runs] == asked
    table = LiveTable(Console(file=io.StringIO(), width=140, height=40, force_terminal=True, color_system=None))
    table.looked(sweep)
    table.looked(sweep)
    table.close()
    assert [run.folder.name for run in runs] == asked and len(asked) == 5


def test_lines_and_events_agree(sweep: SweepState) -> None:
    screen = io.StringIO()
    one, two, three, *_ = sweep.plan.runs
    for watcher in (Lines(Console(file=screen)), Events(Console(file=screen))):
        watcher.began(sweep, two)
        watcher.ended(sweep, one)
        watcher.ended(sweep, three)
    *lines, began, ended, broke = screen.getvalue().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    started, done, failed = (line.split(maxsplit=2)[2] for line in lines)
    assert started == f"started clusterer.eps=0.6, seed 1 ({two.hash})"
    assert done == f"done base, seed 1: mAP 50.00, rank-1 75.00 · {summary(sweep)}"
    assert failed == f"FAILED clusterer.eps=0.5, seed 1: out of memory · {summary(sweep)}"
    facts = [json.loads(event) for event in (began, ended, broke)]
    assert [fact["event"] for fact in facts] == ["run_began", "run_done", "run_failed"]
    assert facts[1]["metrics"] == {"mAP": 0.5, "rank-1": 0.75} and facts[2]["reason"] == "out of memory"
    assert facts[0]["runs"] == 5 and facts[0]["done"] == 1
