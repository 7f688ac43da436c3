"""The recipes on the data sets of the paper: what was published for each."""

from __future__ import annotations

import pytest

import reidx


@pytest.mark.parametrize(
    ("name", "dataset", "iters", "size"),
    [
        ("market1501", "Market1501", 400, (256, 128)),
        ("msmt17", "MSMT17", 800, (256, 128)),
        ("personx", "PersonX", 400, (256, 128)),
        ("veri776", "VeRi776", 800, (224, 224)),
        ("msmt17_to_market1501", "Market1501", 400, (256, 128)),
    ],
)
def test_the_published_settings(name: str, dataset: str, iters: int, size: tuple[int, int]) -> None:
    experiment = reidx.load_config(f"spcl::{name}.yaml").experiment
    (stage,) = experiment.stages
    assert experiment.data.domains["target"]["type"] == dataset and experiment.data.image_size == size
    assert (stage.epochs, stage.iters, stage.evaluate.domain) == (50, iters, "target")
    for stream in stage.streams.values():
        assert stream.sampler["identities"] * stream.sampler["instances"] == 64 and stream.sampler["singles"] == "once"
    assert stage.model.backbone["name"] == "resnet50.tv_in1k" and stage.model.fusion["pool"] == "avg"
    assert stage.model.domain_bn == (name == "msmt17_to_market1501")


def test_the_small_recipe_draws_each_image_once_between_two_labellings() -> None:
    (stage,) = reidx.load_config("spcl::market1501_small.yaml").experiment.stages
    assert stage.epochs * stage.iters * 64 == 51_200  # the passes of the other small recipes
    assert stage.iters * 64 == pytest.approx(12_936, rel=0.02)
