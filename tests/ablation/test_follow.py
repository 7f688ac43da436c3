"""Progress of runs, and the time left for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reidx.ablation.executor import reason_in
from reidx.ablation.follow import LogTail, seconds_left
from reidx.ablation.plan import Plan

STAGES = [{"name": "warm", "epochs": 1, "iters": 10}, {"name": "adapt", "epochs": 3, "iters": 10, "init": "stage:warm"}]


def tell(log: Path, *events: dict[str, object] | str) -> None:
    with open(log, "a", encoding="utf-8") as handle:
        handle.writelines((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events)


def test_log_tail_reads_only_new_events(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    tell(log, {"event": "epoch_end", "stage": "adapt", "epoch": 3})
    follower = LogTail(log)
    follower.look()
    assert (follower.where, follower.share) == ("starting", 0.0)
    plan = [{key: stage[key] for key in ("name", "epochs", "iters")} for stage in STAGES]
    tell(log, {"event": "run_start", "stages": plan}, "a warning", {"event": "stage_skipped", "stage": "warm"})
    tell(log, {"event": "stage_start", "stage": "adapt"})
    tell(log, {"event": "epoch_end", "stage": "adapt", "epoch": 2, "run_seconds_left": 12.5})
    follower.look()
    assert (follower.where, follower.share, follower.left) == ("adapt 2/3", 0.75, 12.5)
    with open(log, "a", encoding="utf-8") as handle:
        handle.write('{"event": "evaluation", "stage": "adapt", "metr')  # the first half of a line
    follower.look()
    tell(log, 'ics": {"mAP": 0.5}}')
    follower.look()
    assert follower.metrics == {"mAP": 0.5} and follower.stage == "adapt"


def test_time_left_counts_a_shared_stage_once(planned: Callable[..., Plan], tmp_path: Path) -> None:
    axes = {"recipe": {"a": {}, "b": {"stages.adapt.optimizer.lr": 1e-3}, "c": {"stages.adapt.optimizer.lr": 1e-2}}}
    one, two, three = planned({"stages": STAGES}, axes=axes).runs
    assert seconds_left([one, two, three], [], [], 1) is None
    # 40 steps took 80 s; each other run has only the 30 steps of adapt left
    assert seconds_left([two, three], [], [(one, 80.0)], 1) == pytest.approx(120)
    assert seconds_left([two, three], [], [(one, 80.0)], 2) == pytest.approx(60)
    assert seconds_left([two, three], [], [(one, 80.0)], 4) == pytest.approx(60)  # the longest run is not split
    running = LogTail(tmp_path / "none")
    running.left = 7.0
    assert seconds_left([three], [(two, running)], [(one, 80.0)], 1) == pytest.approx(7 + 30 * 87 / 80)


def test_reason_of_a_failure_is_its_error(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    tell(log, "error: an old one")
    at = log.stat().st_size
    tell(log, {"event": "run_start"}, "Traceback")
    tell(log, "error: x was started with different provenance:", "  code: a → b", {"event": "x"})
    assert reason_in(log, at) == "x was started with different provenance: code: a → b"
    at = log.stat().st_size
    assert reason_in(log, at) == "it ended without a message"
    tell(log, "Segmentation fault")
    assert reason_in(log, at) == "Segmentation fault"
