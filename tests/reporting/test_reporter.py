"""Progress for people and programs: lines in a log, transient bars in a terminal, events, or nothing."""

from __future__ import annotations

import errno
import io
import json
import re
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch
from rich.console import Console

import reidx
from reidx.config.schema import Labelling, Model, Stage
from reidx.engine import loop
from reidx.reporting import displays
from reidx.reporting import reporter as progress
from reidx.reporting.displays import Bars
from reidx.reporting.reporter import Reporter, images_per_second


class Clock:
    """Monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def in_terminal() -> tuple[Reporter, Bars, io.StringIO]:
    screen = io.StringIO()
    reporter = Reporter("rich")
    bars = reporter.display = Bars(Console(file=screen, force_terminal=True, width=140, legacy_windows=False))
    return reporter, bars, screen


def text_of(screen: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


def without_times(text: str) -> list[str]:
    """The lines of a log without their date and time, which each must have."""
    lines = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.+)", line) for line in text.splitlines()]
    assert None not in lines, text
    return [line[1] for line in lines if line]


def stage(name: str, epochs: int = 2) -> Stage:
    model = Model(backbone={"type": "Timm"})
    return Stage(name, epochs=epochs, iters=10, model=model, labels={"main": Labelling(domain="target")})


class Gone(io.StringIO):
    """Stream whose reader has closed it."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("stream", [Gone(), None], ids=["gone", "never open"])
@pytest.mark.parametrize("mode", ["rich", "plain", "json"])
def test_broken_stderr_does_not_end_a_run(
    mode: displays.Mode, stream: io.StringIO | None, experiment: Callable[..., Path], tmp_path: Path, monkeypatch
):
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 2}]))
    monkeypatch.setattr("sys.stderr", stream)
    result = reidx.run(config, tmp_path / "run", progress=mode)
    assert len(result.stages[0].history) == 1 and "mAP" in result.metrics


def test_closed_terminal_does_not_end_a_run(experiment: Callable[..., Path], tmp_path: Path, monkeypatch):
    config = reidx.load_config(experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 2}]))
    stream = Gone()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", stream)
    assert Reporter().mode == "rich"
    assert "mAP" in reidx.run(config, tmp_path / "run").metrics


# ---- lines


def test_log_has_a_line_when_work_begins(capsys):
    reporter = Reporter("plain")
    with reporter.work("features of target", 12936) as work:
        assert without_times(capsys.readouterr().err) == ["features of target (12,936 images) …"]
        work.advance(64)
    with reporter.work("epoch 1: training", 200, "steps"):
        pass
    reporter.message("epoch 1 [bold]done[/bold]")
    shown = capsys.readouterr()
    assert without_times(shown.err) == ["epoch 1: training (200 steps) …", "epoch 1 [bold]done[/bold]"]
    assert shown.out == ""


def test_long_work_logs_its_progress(capsys, clock):
    asked = 0

    def facts() -> dict[str, float]:
        nonlocal asked
        asked += 1
        return {"loss": 1.5, "clusters": 7.0, "gpu_gb": 3.14}

    with Reporter("plain").work("training", 1000, "steps") as work:
        capsys.readouterr()
        for _ in range(10):  # 100 steps in 20 seconds: 1000 take 200
            clock.now += 20
            work.advance(100, facts)
    assert without_times(capsys.readouterr().err) == [
        "training: 300 of 1,000 steps, 2 min left · loss 1.500 · 7 clusters · 3.1 GB",
        "training: 600 of 1,000 steps, 80 s left · loss 1.500 · 7 clusters · 3.1 GB",
        "training: 900 of 1,000 steps, 20 s left · loss 1.500 · 7 clusters · 3.1 GB",
    ]
    assert asked == 3, "values are read from the device only when they are shown"


def test_images_are_shown_with_their_speed(capsys, clock):
    with Reporter("plain").work("features", 1000) as work:
        capsys.readouterr()
        clock.now += 60
        work.advance(600)
    assert without_times(capsys.readouterr().err) == ["features: 600 of 1,000 images, 40 s left · 10 images/s"]


def test_lines_of_a_log_begin_with_the_time(capsys, monkeypatch):
    class Fixed(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 30, 23, 41, 2, 999999)

    monkeypatch.setattr(displays, "datetime", Fixed)
    Reporter("plain").message("epoch 3/8")
    assert capsys.readouterr().err == "2026-11-30 23:41:02 epoch 3/8\n"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (120, "2 min"), (5399, "90 min"), (5400, "1.5 h")])
def test_durations(seconds, text):
    assert displays.duration(seconds) == text


def test_counted_work_is_shown_only_if_any(capsys):
    reporter = Reporter("plain")
    with reporter.counted("decoding"):
        pass
    assert capsys.readouterr().err == ""
    with reporter.counted("decoding") as tell:
        tell(1, 20)
        tell(20, 20)
    assert without_times(capsys.readouterr().err) == ["decoding (20 images) …"]


def test_without_a_terminal_lines_are_the_default():
    assert Reporter().mode == "plain"


def test_quiet_shows_nothing(capsys):
    reporter = Reporter("quiet")
    reporter.message("hello")
    with reporter.experiment([stage("adapt")]), reporter.work("work", 3) as work, reporter.counted("more") as tell:
        reporter.stage_starts(stage("adapt"))
        work.advance()
        tell(1, 2)
    assert capsys.readouterr() == ("", "")


def test_only_the_first_process_reports(capsys, monkeypatch):
    monkeypatch.setattr(progress.distributed, "rank", lambda: 1)
    reporter = Reporter("plain")
    with reporter.experiment([stage("adapt")]), reporter.work("work", 3):
        reporter.message("hello")
        warnings.warn("look out", stacklevel=1)
    assert capsys.readouterr() == ("", "")


# ---- bars


def test_bars_show_and_vanish_and_lines_stay(clock):
    reporter, bars, screen = in_terminal()
    with reporter.work("epoch 1: training [a/b]", 3, "steps") as work:
        clock.now += 2
        work.advance(facts=lambda: {"images_per_second": 103.2, "loss": 1.2345})
        assert bars.progress is not None
        with reporter.work("inner", 2):  # one display for both
            assert len(bars.progress.tasks) == 2
        (task,) = bars.progress.tasks
        assert task.completed == 1
        assert task.fields["note"] == "103 images/s · loss 1.234" and task.fields["left"] == "4 s left"
        reporter.message("a line that stays")
    assert bars.progress is None
    shown, text = screen.getvalue(), text_of(screen)
    assert re.search(r"^103 images/s · loss 1\.234$", text.replace("\r", ""), re.MULTILINE), "the note is below the bars"
    assert not re.search(r"\d:\d\d:\d\d", text), "no times in a terminal"
    assert "epoch 1: training [a/b]" in text
    assert "1/3" in text
    assert "\x1b[2K" in shown[shown.rindex("a line that stays") :]  # erased


def test_bars_of_a_narrow_terminal_are_whole():
    reporter, bars, screen = in_terminal()
    bars.console.width = 70
    with reporter.work("epoch 12/50: training", 400, "steps") as work:
        bars.show(work)
        work.facts = {"loss": 1.0, **{f"a rather long term #{n}": 1.0 for n in range(9)}}
        work.done = 123
        bars.tick(work)
        bars.show(work)
        assert bars.progress is not None
        bars.progress.refresh()
    last = text_of(screen).replace("\r", "\n").splitlines()
    assert any(re.search(r"^epoch 12/50: training ━\S+ 123/400 steps \S+ \w+ left", line) for line in last)
    assert any(line.startswith("loss 1.000 · a rather long term #0") and line.endswith("…") for line in last)


def test_one_bar_counts_all_steps():
    reporter, bars, _ = in_terminal()
    stages = [stage("warm"), stage("adapt", epochs=3)]  # 20 and 30 steps
    with reporter.experiment(stages):
        reporter.stage_starts(stages[0], done=[])
        reporter.stage_starts(stages[1])
        reporter.epoch_starts(0)
        for _ in range(10):
            reporter.stepped(2.0)
        reporter.epoch_ends({"images": 80, "seconds_train": 20.0}, "epoch 1/3")
        assert bars.progress is not None
        (task,) = bars.progress.tasks
        assert (task.completed, task.total) == (30, 50)
        assert task.description == "stage adapt (2 of 2)"
        assert task.fields["count"] == "30/50 steps" and task.fields["left"] == "over 40 s left"  # no relabelling was measured
    assert bars.progress is None


def test_bars_vanish_when_the_work_fails():
    reporter, bars, _ = in_terminal()
    with pytest.raises(ValueError), reporter.experiment([stage("adapt")]), reporter.work("work", 3):
        raise ValueError
    assert bars.progress is None


def test_bars_without_a_terminal_print_no_lines(capsys):
    reporter = Reporter("rich")
    with reporter.work("work", 3) as work:
        work.advance()
    reporter.message("done")
    assert capsys.readouterr().err == "done\n"


# ---- events


def test_events_are_one_object_per_line(capsys, experiment: Callable[..., Path], tmp_path: Path):
    path = experiment(evaluate={"domain": "target", "before": True})
    result = reidx.run(reidx.load_config(path), tmp_path / "run", progress="json")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == [
        "run_start", "stage_start", "evaluation", "epoch_end", "evaluation", "epoch_end", "run_end",
    ]  # fmt: skip
    assert events[0]["stages"] == [{"name": "adapt", "epochs": 2, "iters": 3}]
    assert [(event["stage"], event["epoch"]) for event in events] == [
        (None, None), ("adapt", None), ("adapt", None), ("adapt", 1), ("adapt", 2), ("adapt", 2), (None, None),
    ]  # fmt: skip
    ends = [event for event in events if event["event"] == "epoch_end"]
    assert [end["entry"] for end in ends] == result.stages[0].history
    assert ends[0]["run_seconds_left"] > 0 and ends[0]["all_seen"] is True
    assert "run_seconds_left" not in ends[1], "no time is left after the last epoch"
    assert ends[1]["images_per_second"] == images_per_second(result.stages[0].last)
    assert events[-1]["metrics"] == result.metrics and events[-1]["seconds"] == result.card["seconds"]


def test_long_work_and_warnings_are_events_too(capsys, clock):
    reporter = Reporter("json")
    shown = warnings.showwarning
    with reporter.experiment([]), reporter.work("features", 100) as work, warnings.catch_warnings():
        warnings.simplefilter("always")
        clock.now += 40
        work.advance(50)
        for _ in range(2):
            warnings.warn("look out", stacklevel=1)
        reporter.message("a line")
        reporter.evaluated({"mAP": float("nan")})
    start, progress, warning, message, evaluation = map(json.loads, capsys.readouterr().err.splitlines())
    assert (start["event"], evaluation["metrics"]) == ("run_start", {"mAP": None})
    assert (progress["event"], progress["done"], progress["total"]) == ("progress", 50, 100)
    assert progress["values"] == {"images_per_second": 1.25}
    assert (warning["event"], warning["text"], warning["category"]) == ("warning", "look out", "UserWarning")
    assert (message["event"], message["text"]) == ("message", "a line")
    assert warnings.showwarning is shown


# ---- the log entry of an epoch


def test_epoch_reports_gpu_memory_with_a_gpu(monkeypatch):
    assert loop.gpu_memory() == {} or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 << 29)
    assert loop.gpu_memory() == {"gpu_gb": 1.5}
    entry = {"epoch": 1, "loss": 0.5, "images": 80, "seconds_train": 2.0, "mAP": 0.5, "gpu_gb": 1.5}
    assert loop.line(entry, 3) == "epoch 1/3 · mAP 50.00 · loss 0.500 · 2 s (40 images/s) · 1.5 GB"


def test_steps_read_nothing_from_the_device(monkeypatch, experiment: Callable[..., Path], tmp_path: Path):
    """Each read from the device waits for it: an epoch of 9 steps has as many reads as one of 3."""
    readings: list[int] = []
    steps = loop.StageLoop._steps

    def counted(self: loop.StageLoop, *given: object) -> object:
        readings.append(0)
        with monkeypatch.context() as patched:
            for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
                patched.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
            return steps(self, *given)

    def counting(original: Callable[[torch.Tensor], object]) -> Callable[[torch.Tensor], object]:
        def read(tensor: torch.Tensor) -> object:
            readings[-1] += 1
            return original(tensor)

        return read

    monkeypatch.setattr(loop.StageLoop, "_steps", counted)
    target = {"domain": "target", "labels": "main", "sampler": {"type": "PK", "identities": 4, "instances": 2}}
    for iters in (3, 9):
        path = experiment(
            streams={"target": {**target, "transform": "ReidTest"}},  # without random numbers, which the host would read
            optimizer={"type": "SGD", "lr": 0.01},
            clip_grad=1.0,
            stages=[{"name": "adapt", "epochs": 1, "iters": iters}],
        )
        reidx.run(reidx.load_config(path), tmp_path / str(iters), progress="quiet")
    assert readings[0] == readings[1] > 0
