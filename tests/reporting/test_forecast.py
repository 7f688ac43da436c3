"""Forecast of the time left from measured durations, against numbers worked out by hand."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import pytest

from reidx.config.schema import Evaluate, Labelling, MatchingSlot, Model, Stage
from reidx.reporting.forecast import Forecast, _work_from, work_of

MODEL = Model(backbone={"type": "Timm"})


def stage(name: str = "adapt", epochs: int = 4, every: int = 2, relabel_every: int = 1, before: bool = False) -> Stage:
    """Return a stage with epochs of 10 steps, one labelling, and an evaluation every second epoch."""
    return Stage(
        name,
        epochs=epochs,
        model=MODEL,
        iters=10,
        labels={"main": Labelling(domain="target", relabel_every=relabel_every)},
        evaluate=Evaluate(domain="target", every=every, before=before),
    )


def test_work_of_an_epoch():
    assert +work_of(stage(), 0) == {"relabel": 1, "step": 10, "commit": 1}
    assert work_of(stage(), 1) == {"relabel": 1, "step": 10, "evaluate": 1, "commit": 1}
    assert work_of(stage(epochs=3, every=0), 2)["evaluate"] == 1, "the last epoch is always evaluated"
    assert [work_of(stage(relabel_every=3), epoch)["relabel"] for epoch in range(4)] == [1, 0, 0, 1]
    assert work_of(stage(before=True), -1) == {"evaluate": 1} and not +work_of(stage(), -1)
    assert work_of(stage(epochs=0), -1)["evaluate"] == 1, "a stage without epochs is evaluated"
    assert not work_of(Stage("bare", epochs=1, iters=1, model=MODEL), 0)["evaluate"], "there is no domain to evaluate on"


def test_matched_labellings_work_together():
    labels = {"a": Labelling("x", relabel_every=2), "b": Labelling("y", relabel_every=3), "c": Labelling("z", relabel_every=4)}
    matching = [MatchingSlot({"type": "Pairs"}, ["a", "b"])]
    both = Stage("both", epochs=8, iters=1, model=MODEL, labels=labels, matching=matching)
    # a and b in epochs 0, 2, 3, 4, 6; c in 0 and 4
    assert [work_of(both, epoch)["relabel"] for epoch in range(8)] == [3, 0, 2, 2, 3, 0, 2, 0]
    for epoch in range(9):
        assert _work_from(both, epoch)["relabel"] == sum(work_of(both, e)["relabel"] for e in range(epoch, 8))


def test_no_forecast_before_the_first_step():
    forecast = Forecast([stage()])
    forecast.at("adapt", 0)
    forecast.measured("adapt", 0, "relabel", 30.0)
    assert forecast.seconds_left() is None


def test_forecast_counts_all_work_of_stages():
    forecast = Forecast([stage("warm", epochs=2), stage("adapt", epochs=4)])
    assert forecast.steps == 60
    forecast.at("warm", 0)
    forecast.measured("warm", 0, "relabel", 30.0)
    for _ in range(10):
        forecast.measured("warm", 0, "step", 2.0)
    # left: 10 + 40 steps of 2 s, 1 + 4 relabellings of 30 s; no evaluation was measured yet
    assert forecast.seconds_left() == (50 * 2.0 + 5 * 30.0, False)
    assert forecast.steps_done == 10
    forecast.measured("warm", 0, "commit", 1.0)
    forecast.at("warm", 1)
    forecast.measured("warm", 1, "relabel", 30.0)
    for _ in range(10):
        forecast.measured("warm", 1, "step", 2.0)
    forecast.measured("warm", 1, "evaluate", 7.0)
    forecast.measured("warm", 1, "commit", 1.0)
    # left: 40 steps, 4 relabellings, 2 evaluations, 4 commits, at the pace of the previous stage
    assert forecast.seconds_left() == (40 * 2.0 + 4 * 30.0 + 2 * 7.0 + 4 * 1.0, True)


def test_first_step_and_old_epochs_count_less():
    forecast = Forecast([stage(epochs=2, every=0)])
    forecast.at("adapt", 0)
    forecast.measured("adapt", 0, "step", 100.0)  # worker processes start
    forecast.measured("adapt", 0, "step", 2.0)
    total, _ = forecast.seconds_left() or (0.0, True)
    assert total == 18 * 2.0
    for _ in range(8):
        forecast.measured("adapt", 0, "step", 2.0)
    forecast.at("adapt", 1)
    for _ in range(5):
        forecast.measured("adapt", 1, "step", 4.0)
    total, _ = forecast.seconds_left() or (0.0, True)
    assert total == pytest.approx(5 * (9 * 2.0 / 2 + 5 * 4.0) / (9 / 2 + 5))


def test_resumed_run_knows_the_earlier_pace():
    history = [{"epoch": e, "seconds_relabel": 30.0, "seconds_train": 20.0, "seconds_evaluate": 7.0} for e in (1, 2)]
    forecast = Forecast([stage(epochs=4)])
    forecast.recall("adapt", history)
    forecast.at("adapt", 2)
    assert forecast.seconds_left() == (20 * 2.0 + 2 * 30.0 + 7.0, True)
    assert forecast.steps_done == 20


def test_running_work_counts_down(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    forecast = Forecast([stage(epochs=2, every=0)])
    forecast.at("adapt", 0)
    forecast.measured("adapt", 0, "relabel", 30.0)
    for _ in range(10):
        forecast.measured("adapt", 0, "step", 2.0)
    forecast.at("adapt", 1)
    forecast.begin("adapt", "relabel")
    left = []
    for clock[0] in (100.0, 110.0, 150.0):  # the last is late: no time is left for it
        total, _ = forecast.seconds_left() or (0.0, True)
        left.append(total)
    assert left == [50.0, 40.0, 20.0]


def test_unknown_stages_are_ignored():
    forecast = Forecast()
    forecast.at(None, 0)
    forecast.measured(None, 0, "step", 1.0)
    forecast.recall("other", [{"epoch": 1}])
    assert forecast.seconds_left() is None and forecast.steps == 0


def test_time_left_equals_the_sum_over_epochs():
    """The closed form equals a loop over the epochs, which would be too slow for millions of epochs."""
    for epochs, every, relabel_every, before in itertools.product((0, 1, 5, 6), (0, 1, 2, 3, 7), (1, 2, 4), (False, True)):
        one = stage(epochs=epochs, every=every, relabel_every=relabel_every, before=before)
        for at in range(-1, epochs + 2):
            forecast = Forecast([one])
            forecast.at("adapt", at)
            summed = sum((work_of(one, epoch) for epoch in range(at, epochs)), Counter[str]())
            assert +forecast.left["adapt"] == +summed
    assert Forecast([stage(epochs=10**9)]).steps == 10**10
