"""Spans: sums of a stopwatch, names in a trace, and no cost without a listener."""

from __future__ import annotations

import time

import pytest
import torch
from torch.profiler import profile

from reidx import profiling as spans
from reidx.profiling import Marks, Stopwatch, listening, span


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_stopwatch_charges_the_innermost_span(clock):
    with Stopwatch(torch.device("cpu")) as watch:
        clock[0] += 1
        for _ in range(2):
            with span("relabel"):
                clock[0] += 2
                with span("extract", images=100):
                    clock[0] += 4
                clock[0] += 8
        clock[0] += 16
    clock[0] += 32
    assert watch.own == {(): 17, ("relabel",): 20, ("relabel", "extract"): 8}
    assert watch.within("relabel") == 28 and watch.within("relabel", "extract") == 8
    assert watch.seconds == 45 == sum(watch.own.values())
    assert watch.calls == {("relabel",): 2, ("relabel", "extract"): 2}
    assert watch.images[("relabel", "extract")] == 200


def test_a_span_that_fails_ends(clock):
    with Stopwatch(torch.device("cpu")) as watch:
        with pytest.raises(ValueError), span("a"):
            clock[0] += 1
            raise ValueError
        with span("b"):
            clock[0] += 2
    assert watch.own == {(): 0, ("a",): 1, ("b",): 2}


def test_a_decorated_function_may_call_itself(clock):
    @span("f")
    def f(depth: int) -> None:
        clock[0] += 1
        if depth:
            f(depth - 1)

    with Stopwatch(torch.device("cpu")) as watch:
        f(2)
    assert watch.own[("f",)] == watch.own[("f", "f")] == watch.own[("f", "f", "f")] == 1


def test_spans_wait_for_queued_work(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device = torch.device("cuda", 0)
    with Stopwatch(device), span("a"):
        pass
    assert waited == [device] * 4


def test_spans_appear_in_a_trace():
    with profile() as seen, listening(Marks()), span("relabel"), span("extract"):
        torch.ones(2).sum()
    names = [event.name for event in seen.events()]
    assert {"relabel", "extract", "aten::sum"} <= set(names)


def test_spans_without_listener_do_nothing(monkeypatch):
    def called(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(spans, "record_function", called)
    monkeypatch.setattr(time, "perf_counter", called)
    with span("quiet"):
        pass
    assert spans._listeners == []
