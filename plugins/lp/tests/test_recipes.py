"""The recipes on the data sets of the paper: what was published for each."""

from __future__ import annotations

import pytest

import reidx


@pytest.mark.parametrize(
    ("name", "dataset", "iters", "eps"), [("market1501", "Market1501", 200, 0.6), ("msmt17", "MSMT17", 400, 0.7)]
)
def test_the_published_settings(name: str, dataset: str, iters: int, eps: float) -> None:
    experiment = reidx.load_config(f"lp::{name}.yaml").experiment
    assert experiment.data.domains["target"]["type"] == dataset and experiment.data.image_size == (256, 128)
    teacher, warmup, student = experiment.stages
    assert [(s.name, s.epochs, s.iters) for s in experiment.stages] == [
        ("teacher", 50, iters), ("warmup", 1, 2 * iters), ("student", 50, iters),
    ]  # fmt: skip
    for stage in (teacher, warmup, student):
        assert stage.labels["main"].clusterer["eps"] == eps
        sampler = stage.streams["target"].sampler
        assert sampler["identities"] * sampler["instances"] == 256
        assert stage.model.backbone["name"] == "resnet50.tv_in1k" and stage.model.backbone["pretrained"]
    assert student.schedule[0]["milestones"] == [19, 39] and teacher.schedule[0]["step_size"] == 20


def test_the_small_recipe_trains_teacher_and_student_alike() -> None:
    teacher, warmup, student = reidx.load_config("lp::market1501_small.yaml").experiment.stages
    assert (teacher.epochs, teacher.iters) == (student.epochs, student.iters)
    assert warmup.iters == 2 * teacher.iters and teacher.schedule == student.schedule
    for stage in (teacher, warmup, student):
        assert stage.streams["target"].sampler["instances"] == 4 and stage.precision == "auto"
