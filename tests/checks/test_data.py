"""Data that lacks something a later stage needs is refused before the first stage trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import reidx
from reidx.checks.data import check_evaluation, check_experiment
from reidx.data.datasets import Dataset, Split
from reidx.data.domains import Domains
from reidx.errors import ConfigError, DataError


class Bare(Dataset):
    """Eight images of two people; ``lacks`` names the missing information."""

    def __init__(self, lacks: str = "") -> None:
        self.name, self.root, self.dropped = "bare", ".", {}
        cameras = np.full(4, -1) if lacks == "cameras" else np.array([0, 1, 0, 1])
        ids = None if lacks == "ids" else np.array([5, 5, 9, 9])
        self.train = Split([f"{i}.jpg" for i in range(4)], ids, cameras)
        self.query = Split(["a.jpg", "b.jpg"], np.array([5, 9]), cameras[:2])
        self.gallery = Split(["c.jpg", "d.jpg"], np.array([5, 9]), cameras[[1, 0]])
        if lacks == "some cameras":
            self.train = Split(self.train.paths, ids, np.array([0, -1, 0, -1]))
        if lacks == "a query's camera":
            self.query = Split(self.query.paths, self.query.ids, np.array([-1, 1]))
        if lacks == "a match's camera":
            self.gallery = Split(self.gallery.paths, self.gallery.ids, np.array([-1, 0]))
        if lacks == "a distractor's camera":
            self.gallery = Split(["c.jpg", "d.jpg", "e.jpg"], np.array([5, 9, 1]), np.array([1, 0, -1]))
        if lacks == "training images":
            self.train = Split([], np.zeros(0, np.int64), np.zeros(0, np.int64))


class Strict:
    """Sampler that requires cameras."""

    cameras = "required"
    outliers = "drop"

    def __init__(self, labels: Any, cameras: Any, batches: int) -> None: ...


class CameraWise:
    """Refiner that requires cameras."""

    cameras = "required"


class CameraMatcher(CameraWise):
    """Matcher that requires cameras."""


class Proxies(nn.Module):
    """Memory of camera proxies."""

    cameras = "required"

    def __init__(self, dim: int) -> None: ...

    def reset(self, features: Tensor | None, labels: Tensor, cameras: Tensor | None = None) -> None: ...


class CameraDistance:
    """Distance that reads cameras."""

    def __call__(self, features: Tensor, *, cameras: np.ndarray) -> Any: ...


class CameraClusterer:
    """Clusterer that reads cameras."""

    clusterer_input = "features"

    def __call__(self, features: Tensor, cameras: np.ndarray) -> Any: ...


class CameraLoss(nn.Module):
    """Loss that reads cameras."""

    def forward(self, features: Tensor, cameras: Tensor) -> Tensor:
        return features.sum() * cameras.sum()


class CameraReranker:
    """Re-ranker that reads cameras."""

    def __call__(self, query_features: Tensor, gallery_features: Tensor, *, gallery_cams: np.ndarray) -> Any: ...


@pytest.fixture
def check(register: Callable[[str, type], None], experiment: Callable[..., Path]) -> Callable[..., str]:
    """Return the message for an experiment on ``Bare`` data that lacks something, or "" if it may run."""
    register("dataset", Bare)
    register("sampler", Strict)
    register("refiner", CameraWise)
    register("matcher", CameraMatcher)
    register("memory", Proxies)
    register("loss", CameraLoss)
    register("distance", CameraDistance)
    register("clusterer", CameraClusterer)
    register("reranker", CameraReranker)

    def check(lacks: str = "", **changes: Any) -> str:
        data = {"domains": {"target": {"type": "Bare", "lacks": lacks}}}
        # the mistake is in the last stage, and must be found before the first one trains
        stages = [{"name": "harmless", "epochs": 0, "evaluate": {"domain": None}}, {"name": "last", "epochs": 1, **changes}]
        path = experiment(data=data, stages=stages)
        config = reidx.load_config(path)
        try:
            check_experiment(config, Domains(config.data["data"]))
        except (ConfigError, DataError) as error:
            place, _, message = str(error).partition(": ")
            assert place.startswith(f"{path}:")
            return message
        return ""

    return check


BLIND = {"domain": "target", "protocol": "NoCameraFilter"}


def test_complete_data_is_accepted(check):
    assert check() == ""
    assert check(streams={"target": {"sampler": {"type": "Strict"}}}) == ""


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"streams": {"target": {"sampler": {"type": "Strict"}}}}, "stages.1.streams.target.sampler: Strict"),
        ({"labels": {"refiners": ["CameraWise"]}}, "stages.1.labels.labellings.main.refiners.0: CameraWise"),
        ({"labels": {"labellings": {"main": {}, "other": {}}},
          "matching": [{"matcher": "CameraMatcher", "labellings": ["main", "other"]}]},
         "stages.1.matching.0.matcher: CameraMatcher"),
        ({"labels": {"distance": "CameraDistance"}}, "stages.1.labels.labellings.main.distance: CameraDistance"),
        ({"labels": {"clusterer": "CameraClusterer"}}, "stages.1.labels.labellings.main.clusterer: CameraClusterer"),
        ({"memories": {"rows": {"memory": "Proxies"}}}, "stages.1.memories.rows.memory: Proxies"),
        ({"objective": [{"loss": "CameraLoss"}]}, "stages.1.objective.0.loss: CameraLoss"),
        ({"evaluate": {"domain": "target"}}, "stages.1.evaluate.protocol: Market1501"),
        ({"evaluate": {**BLIND, "rerank": "CameraReranker"}}, "stages.1.evaluate.rerank: CameraReranker"),
    ],
)  # fmt: skip
def test_missing_cameras_are_refused(check, changes, where):
    blind = {"evaluate": BLIND}
    message = check("cameras", **{**blind, **changes})
    assert message.startswith(f"{where} needs to know the cameras, but domain 'target' has none.")
    assert ("protocol: NoCameraFilter" in message) == ("evaluate.protocol" in where)
    assert ("rerank: KReciprocal" in message) == ("evaluate.rerank" in where)
    assert check("cameras", **blind) == ""  # PK uses cameras if the data has them


def test_some_missing_cameras_are_refused(check):
    strict = {"streams": {"target": {"sampler": {"type": "Strict"}}}}
    assert check("some cameras") == ""  # PK takes unknown cameras for one more
    assert check("some cameras", **strict) == (
        "stages.1.streams.target.sampler: Strict needs to know the cameras, but 2 of 4 train images of domain 'target' have "
        "none (-1). Give each a camera, or leave it out. Set sampler: PK, or Shuffle, which need none."
    )
    for part in ({"memories": {"rows": {"memory": "Proxies"}}}, {"labels": {"distance": "CameraDistance"}}):
        assert "needs to know the cameras, but 2 of 4 train images" in check("some cameras", **part)


def test_protocol_needs_the_cameras_of_its_matches(check):
    evaluated = {"evaluate": {"domain": "target"}}
    for lacks, split in (("a query's camera", "query"), ("a match's camera", "gallery")):
        message, place = check(lacks, **evaluated), "stages.1.evaluate.protocol"
        assert message.startswith(f"{place}: Market1501 needs to know the cameras, but 1 of 2 {split} images of domain")
        assert message.endswith("For evaluation without cameras, set protocol: NoCameraFilter.")
        assert check(lacks, evaluate=BLIND) == ""
    assert check("a distractor's camera", **evaluated) == ""
    reranked = {"evaluate": {"domain": "target", "rerank": "CameraReranker"}}
    assert "CameraReranker needs to know the cameras, but 1 of 3 gallery images" in check("a distractor's camera", **reranked)


def test_missing_identities_are_refused(check):
    identity = {
        "labels": None,
        "streams": {"target": {"labels": "identity"}},
        "memories": {"rows": {"labels": "identity"}},
    }
    assert check(**identity) == ""
    assert check("ids", **identity).startswith("stages.1.streams.target.labels: domain 'target' has no identities;")
    assert check("ids") == ""  # clustering needs no identities


def test_no_images_to_train_on(check):
    message = "stages.1.streams.target: domain 'target' has no train images. bare is test-only: train on another domain"
    assert check("training images").startswith(message)


def test_files_of_later_stages(check, tmp_path):
    assert check(init=str(tmp_path / "none.pth")).startswith(f"stages.1.init: there is no file {tmp_path / 'none.pth'}")
    with pytest.raises(ConfigError, match="no stage that trains before this one called 'harmless'"):
        check(init="stage:harmless")
    teachers = {"old": {"type": "Frozen", "weights": "none.pth"}}
    assert check(teachers=teachers).startswith("stages.1.teachers.old.weights: there is no file none.pth")


def test_evaluation_needs_only_its_own_data(check, experiment):
    check()  # registers the data set
    path = experiment(data={"domains": {"target": {"type": "Bare", "lacks": "training images"}}})
    config = reidx.load_config(path)
    check_evaluation(config, Domains(config.data["data"]), 0, config.experiment.stages[0])
    with pytest.raises(DataError, match="no train images"):
        check_experiment(config, Domains(config.data["data"]))
