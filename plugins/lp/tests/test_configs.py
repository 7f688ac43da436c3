"""The published schedule in the resolved configs, and the part that each control omits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from reidx.config.config import Config
from reidx.config.schema import Stage

Tiny = Callable[..., Config]


def stages(config: Config) -> dict[str, Stage]:
    return {stage.name: stage for stage in config.experiment.stages}


def weights(stage: Stage) -> list[tuple[str, str, float]]:
    return [(term.loss["type"], term.feature, term.weight) for term in stage.objective]


CONTRAST = [("MemoryContrast", "global", 0.8), ("MemoryContrast", "upper", 0.2), ("MemoryContrast", "lower", 0.2)]


def rates(stage: Stage) -> list[float]:
    """The learning rate of each epoch, by torch's scheduler of the same name."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=stage.optimizer["lr"])
    ((name, settings),) = ((s["type"], {k: v for k, v in s.items() if k != "type"}) for s in stage.schedule)
    scheduler, found = getattr(torch.optim.lr_scheduler, name)(optimizer, **settings), []
    for _ in range(stage.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def published(tiny: Tiny, name: str, *overrides: str) -> dict[str, Stage]:
    """The stages of a config with the epochs, iterations and batches as published."""
    full = ["epochs=50", "iters=200", "streams.target.sampler.identities=16", "streams.target.sampler.instances=16"]
    return stages(tiny(f"lp::{name}.yaml", *full, *overrides))


def test_rates_follow_the_published_schedule(tiny: Tiny) -> None:
    teacher, warmup, student = published(tiny, "usl").values()
    assert [(s.epochs, s.iters) for s in (teacher, warmup, student)] == [(50, 200), (1, 400), (50, 200)]
    assert rates(teacher) == pytest.approx([3.5e-4] * 20 + [3.5e-5] * 20 + [3.5e-6] * 10)
    together = rates(warmup) + rates(student)
    assert together == pytest.approx([3.5e-4] * 20 + [3.5e-5] * 20 + [3.5e-6] * 11)


def test_controls_omit_only_their_part(tiny: Tiny) -> None:
    usl = published(tiny, "usl")
    assert published(tiny, "teacher") == {"teacher": usl["teacher"]}

    twice = published(tiny, "twice")
    assert list(twice) == ["teacher", "again"]
    assert replace(twice["again"], name="teacher") == twice["teacher"] == usl["teacher"]

    warmed = published(tiny, "warmup_only")
    for name, stage in warmed.items():
        assert weights(stage) == CONTRAST
        assert replace(stage, objective=usl[name].objective) == usl[name]

    mimicked = published(tiny, "distil_only")
    assert list(mimicked) == ["teacher", "student"]
    assert mimicked["teacher"] == usl["teacher"]
    assert replace(mimicked["student"], name="teacher", teachers={}, objective=usl["teacher"].objective) == usl["teacher"]
    assert mimicked["student"].objective == usl["student"].objective
    assert mimicked["student"].teachers == usl["student"].teachers


@pytest.mark.parametrize("name", ["usl", "teacher", "twice", "warmup_only", "distil_only"])
def test_ablations_are_overrides(tiny: Tiny, name: str) -> None:
    overrides = ["labels.distance.lambda1=0.25", "model.fusion.test_views=concat", "labels.clusterer.eps=0.65"]
    if name in ("usl", "warmup_only", "distil_only"):
        overrides.append("teachers.offline.statistics=running")
    for stage in published(tiny, name, *overrides).values():
        assert stage.labels["main"].distance["lambda1"] == 0.25
        assert stage.model.fusion["test_views"] == "concat"
        assert all(teacher.statistics == "running" for teacher in stage.teachers.values())
