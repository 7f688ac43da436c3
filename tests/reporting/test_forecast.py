"""How long the rest of a run takes, by what was measured: worked out by hand."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import pytest

from reidx.config.schema import Evaluate, Labelling, Model, Stage
from reidx.reporting.forecast import Forecast, work_of

MODEL = Model(backbone={"type": "Timm"})


def stage(name: str = "adapt", epochs: int = 4, every: int = 2, relabel_every: int = 1, before: bool = False) -> Stage:
    """Epochs of 10 steps, one level, tested every second epoch."""
    return Stage(
        name,
        epochs=epochs,
        model=MODEL,
        iters=10,
        labels={"main": Labelling(domain="target", relabel_every=relabel_every)},
        evaluate=Evaluate(domain="target", every=every, before=before),
    )


def test_what_an_epoch_consists_of():
    assert +work_of(stage(), 0) == {"relabel": 1, "step": 10, "commit": 1}
    assert work_of(stage(), 1) == {"relabel": 1, "step": 10, "evaluate": 1, "commit": 1}
    assert work_of(stage(epochs=3, every=0), 2)["evaluate"] == 1, "the last one is always tested"
    assert [work_of(stage(relabel_every=3), epoch)["relabel"] for epoch in range(4)] == [1, 0, 0, 1]
    assert work_of(stage(before=True), -1) == {"evaluate": 1} and not +work_of(stage(), -1)
    assert work_of(stage(epochs=0), -1)["evaluate"] == 1, "a stage without epochs is there to be tested"
    assert not work_of(Stage("bare", epochs=1, iters=1, model=MODEL), 0)["evaluate"], "no domain to test on"


def test_nothing_is_said_before_a_step_was_measured():
    forecast = Forecast([stage()])
    forecast.at("adapt", 0)
    forecast.measured("adapt", 0, "relabel", 30.0)
    assert forecast.seconds_left() is None


def test_relabelling_steps_and_evaluations_of_all_stages_count():
    forecast = Forecast([stage("warm", epochs=2), stage("adapt", epochs=4)])
    assert forecast.steps == 60
    forecast.at("warm", 0)
    forecast.measured("warm", 0, "relabel", 30.0)
    for _ in range(10):
        forecast.measured("warm", 0, "step", 2.0)
    # ahead: 10 + 40 steps of 2 s, 1 + 4 relabellings of 30 s; the evaluations were not seen yet
    assert forecast.seconds_left() == (50 * 2.0 + 5 * 30.0, False)
    assert forecast.steps_done == 10
    forecast.measured("warm", 0, "commit", 1.0)
    forecast.at("warm", 1)
    forecast.measured("warm", 1, "relabel", 30.0)
    for _ in range(10):
        forecast.measured("warm", 1, "step", 2.0)
    forecast.measured("warm", 1, "evaluate", 7.0)
    forecast.measured("warm", 1, "commit", 1.0)
    # ahead: 40 steps, 4 relabellings, 2 evaluations, 4 commits, at the pace of the stage before
    assert forecast.seconds_left() == (40 * 2.0 + 4 * 30.0 + 2 * 7.0 + 4 * 1.0, True)


def test_the_very_first_step_is_forgotten_and_an_earlier_epoch_counts_half():
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


def test_a_resumed_run_knows_the_pace_of_the_leg_before():
    history = [{"epoch": e, "seconds_relabel": 30.0, "seconds_train": 20.0, "seconds_evaluate": 7.0} for e in (1, 2)]
    forecast = Forecast([stage(epochs=4)])
    forecast.recall("adapt", history)
    forecast.at("adapt", 2)
    assert forecast.seconds_left() == (20 * 2.0 + 2 * 30.0 + 7.0, True)
    assert forecast.steps_done == 20


def test_work_under_way_counts_down(monkeypatch):
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
    for clock[0] in (100.0, 110.0, 150.0):  # the last is late: then it is any moment now
        total, _ = forecast.seconds_left() or (0.0, True)
        left.append(total)
    assert left == [50.0, 40.0, 20.0]


def test_what_is_no_stage_of_the_run_is_passed_over():
    forecast = Forecast()
    forecast.at(None, 0)
    forecast.measured(None, 0, "step", 1.0)
    forecast.recall("other", [{"epoch": 1}])
    assert forecast.seconds_left() is None and forecast.steps == 0


def test_what_is_left_is_the_sum_over_the_epochs():
    """Against going through the epochs one by one, which takes for ever where there are millions."""
    for epochs, every, relabel_every, before in itertools.product((0, 1, 5, 6), (0, 1, 2, 3, 7), (1, 2, 4), (False, True)):
        one = stage(epochs=epochs, every=every, relabel_every=relabel_every, before=before)
        for at in range(-1, epochs + 2):
            forecast = Forecast([one])
            forecast.at("adapt", at)
            summed = sum((work_of(one, epoch) for epoch in range(at, epochs)), Counter[str]())
            assert +forecast.left["adapt"] == +summed
    assert Forecast([stage(epochs=10**9)]).steps == 10**10
