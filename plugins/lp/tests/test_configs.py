"""The published schedule as the configs resolve it, and what each control leaves out of it."""

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
DISTIL = [("lp.FeatureDistil", view, weight) for _, view, weight in CONTRAST]


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


def test_the_schedule_is_the_published_one(tiny: Tiny) -> None:
    teacher, warmup, student = published(tiny, "usl").values()
    assert [(s.epochs, s.iters) for s in (teacher, warmup, student)] == [(50, 200), (1, 400), (50, 200)]
    assert rates(teacher) == pytest.approx([3.5e-4] * 20 + [3.5e-5] * 20 + [3.5e-6] * 10)
    together = rates(warmup) + rates(student)
    assert together == pytest.approx([3.5e-4] * 20 + [3.5e-5] * 20 + [3.5e-6] * 11)
    assert [s.init for s in (teacher, warmup, student)] == [None, None, "stage:warmup"]
    assert [s.optimization.state_from for s in (teacher, warmup, student)] == [None, None, "stage:warmup"]
    for stage in (teacher, warmup, student):
        assert stage.optimizer["type"] == "Adam" and stage.optimizer["weight_decay"] == 5e-4
        assert stage.model.bn_group == 64 and stage.evaluate.feature == "embed"
        sampler = stage.streams["target"].sampler
        assert (sampler["type"], sampler["identities"], sampler["instances"]) == ("PK", 16, 16)


def test_losses_weigh_as_published_and_the_teacher_is_mimicked_by_both_of_the_students_stages(tiny: Tiny) -> None:
    teacher, warmup, student = published(tiny, "usl").values()
    assert weights(teacher) == CONTRAST
    assert weights(warmup) == weights(student) == CONTRAST + DISTIL
    for stage in (teacher, warmup, student):
        for term in stage.objective:
            contrast = term.loss["type"] == "MemoryContrast"
            assert (term.memory, term.teacher) == ((term.feature, None) if contrast else (None, "offline"))
            assert term.loss.get("temperature") == (0.05 if contrast else None)
    assert not teacher.teachers
    for stage in (warmup, student):
        offline = stage.teachers["offline"]
        assert (offline.type, offline.weights, offline.statistics) == ("Frozen", "stage:teacher", "batch")


def test_labels_and_centroids_are_the_teachers_in_the_warm_up_alone(tiny: Tiny) -> None:
    for name, stage in published(tiny, "usl").items():
        source, momentum = ("offline", 1.0) if name == "warmup" else ("student", 0.1)
        assert stage.labels["main"].network == source
        assert stage.labels["main"].distance["lambda1"] == 0.15
        for view in ("global", "upper", "lower"):
            memory = stage.memories[view]
            assert (memory.network, memory.feature, memory.memory["momentum"]) == (source, view, momentum)


def test_the_controls_leave_out_what_they_say(tiny: Tiny) -> None:
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
    assert list(mimicked) == ["teacher", "student"] and mimicked["teacher"] == usl["teacher"]
    assert replace(mimicked["student"], name="teacher", teachers={}, objective=usl["teacher"].objective) == usl["teacher"]
    assert mimicked["student"].objective == usl["student"].objective
    assert mimicked["student"].teachers == usl["student"].teachers


@pytest.mark.parametrize("name", ["usl", "teacher", "twice", "warmup_only", "distil_only"])
def test_the_ablations_are_settings(tiny: Tiny, name: str) -> None:
    overrides = ["labels.distance.lambda1=0.25", "model.fusion.test_views=concat", "labels.clusterer.eps=0.65"]
    if name in ("usl", "warmup_only", "distil_only"):
        overrides.append("teachers.offline.statistics=running")
    for stage in published(tiny, name, *overrides).values():
        assert stage.labels["main"].distance["lambda1"] == 0.25
        assert stage.model.fusion["test_views"] == "concat"
        assert all(teacher.statistics == "running" for teacher in stage.teachers.values())
