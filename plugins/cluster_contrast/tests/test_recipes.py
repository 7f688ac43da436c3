"""The recipes, one a data set: what differs between the data sets in the released code's commands, and what does not."""

from __future__ import annotations

import pytest

import reidx
from reidx.registry.discovery import config_root

# LP section 5.1: data set, steps an epoch, image size
PUBLISHED = {
    "market1501": ("Market1501", 200, (256, 128)),
    "duke": ("DukeMTMC", 200, (256, 128)),
    "msmt17": ("MSMT17", 400, (256, 128)),
    "personx": ("PersonX", 200, (256, 128)),
    "veri776": ("VeRi776", 400, (224, 224)),
}


def test_there_is_a_recipe_for_each_of_the_papers_data_sets():
    names = {path.stem for path in config_root("cluster_contrast").glob("*.yaml")}
    assert names - {"usl", "market1501_small"} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_settings(name):
    dataset, iters, size = PUBLISHED[name]
    config = reidx.load_config(f"cluster_contrast::{name}.yaml")
    experiment = config.experiment
    (stage,) = experiment.stages
    assert experiment.data.domains["target"]["type"] == dataset
    assert list(experiment.data.domains) == [stage.evaluate.domain] == ["target"]
    assert experiment.data.image_size == size and experiment.data.interpolation == "bicubic"
    assert (stage.epochs, stage.iters, stage.precision) == (50, iters, "auto")
    assert stage.model.backbone["name"] == "resnet50.tv_in1k" and stage.model.backbone["pretrained"]
    sampler = stage.streams["target"].sampler
    assert sampler["identities"] * sampler["instances"] == 256 == stage.optimizer["lr_batch"]
    clusterer = stage.labels["main"].clusterer
    assert (clusterer["type"], clusterer["eps"], clusterer["min_samples"]) == ("DBSCAN", 0.6, 4)
    assert stage.optimizer["lr"] == 3.5e-4 and stage.schedule[0]["step_size"] == 20
    assert stage.memories["centroids"]["momentum"] == 0.1


def test_the_infomap_variant_is_two_parts():
    other = ["labels.distance={type: Cosine, k: 15}", "labels.clusterer={type: InfoMap}"]
    level = reidx.load_config("cluster_contrast::msmt17.yaml", other).experiment.stages[0].labels["main"]
    assert level.distance is not None and (level.distance["type"], level.distance["k"]) == ("Cosine", 15)
    assert (level.clusterer["min_similarity"], level.clusterer["min_size"]) == (0.5, 5)
