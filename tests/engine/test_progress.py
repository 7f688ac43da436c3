"""What a person is shown: lines in a log, bars in a terminal that leave none of themselves behind, or nothing."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from reidx.engine import progress
from reidx.engine.progress import Reporter


def in_terminal() -> tuple[Reporter, io.StringIO]:
    screen = io.StringIO()
    reporter = Reporter("rich")
    reporter.console = Console(file=screen, force_terminal=True, width=100, legacy_windows=False)
    return reporter, screen


def test_a_log_is_told_when_work_begins(capsys):
    reporter = Reporter("plain")
    with reporter.work("features of target", 12936) as work:
        assert capsys.readouterr().err == "features of target (12,936 images) …\n"
        work.advance(64)
    with reporter.work("epoch 1: training", 200, "steps"):
        pass
    reporter.say("epoch 1 [bold]done[/bold]")
    assert capsys.readouterr() == ("", "epoch 1: training (200 steps) …\nepoch 1 [bold]done[/bold]\n")


def test_a_log_is_given_a_sign_of_life_in_long_work(capsys, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Reporter("plain").work("features", 1000) as work:
        capsys.readouterr()
        for _ in range(10):  # 100 images in 20 seconds: 1000 take 200
            clock[0] += 20
            work.advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "features: 300 of 1,000 images, 2 min left",
        "features: 600 of 1,000 images, 80 s left",
        "features: 900 of 1,000 images, 20 s left",
    ]


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (89, "89 s"), (120, "2 min"), (5399, "90 min"), (5400, "1.5 h")])
def test_durations(seconds, said):
    assert progress._duration(seconds) == said


def test_work_that_counts_itself_is_shown_only_when_there_is_some(capsys):
    reporter = Reporter("plain")
    with reporter.counted("decoding"):
        pass
    assert capsys.readouterr().err == ""
    with reporter.counted("decoding") as tell:
        tell(1, 20)
        tell(20, 20)
    assert capsys.readouterr().err == "decoding (20 images) …\n"


def test_quiet_shows_nothing(capsys):
    reporter = Reporter("quiet")
    reporter.say("hello")
    with reporter.work("work", 3) as work, reporter.counted("more") as tell:
        work.advance()
        tell(1, 2)
    assert capsys.readouterr() == ("", "")


def test_bars_show_and_vanish_and_lines_stay():
    reporter, screen = in_terminal()
    with reporter.work("epoch 1: training [a/b]", 3, "steps") as work:
        work.advance(note="2.0 steps/s")
        assert reporter._bars is not None
        with reporter.work("inner", 2):  # one display for both
            assert len(reporter._bars.tasks) == 2
        assert [task.completed for task in reporter._bars.tasks] == [1]
        reporter.say("a line that stays")
    assert reporter._bars is None
    shown = screen.getvalue()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "a line that stays" in text and "epoch 1: training [a/b]" in text and "1/3" in text
    assert shown.rstrip().endswith("\x1b[2K") or "\x1b[2K" in shown[shown.rindex("a line that stays") :]  # erased


def test_bars_vanish_when_the_work_fails():
    reporter, _ = in_terminal()
    with pytest.raises(ValueError), reporter.work("work", 3):
        raise ValueError
    assert reporter._bars is None


def test_bars_asked_for_without_a_terminal_leave_no_empty_lines(capsys):
    reporter = Reporter("rich")
    with reporter.work("work", 3) as work:
        work.advance()
    reporter.say("done")
    assert capsys.readouterr().err == "done\n"
