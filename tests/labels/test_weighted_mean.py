"""The weighted mean of a distance over several features: its definition in loops, inputs passed on, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from reidx.checks.load import load_config
from reidx.errors import ConfigError
from reidx.labels.distances.jaccard import Jaccard
from reidx.labels.distances.weighted_mean import WeightedMean
from reidx.registry.build import build, contract
from reidx.testing.tiny import tiny_experiment, write_experiment

JACCARD = {"type": "Jaccard", "k1": 8, "k2": 3}


def features(images: int = 40) -> dict[str, torch.Tensor]:
    """Two features (N, 5) that agree on groups of five images."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(images // 5, 5)).repeat(5, 0)
    return {name: torch.from_numpy(centres + random.normal(0, 0.4, centres.shape)).float() for name in ("a", "b")}


def dense(graph: csr_array) -> np.ndarray:
    """Distances (N, N) of a graph, 1 where it stores none."""
    full, entries = np.ones(graph.shape), graph.tocoo()
    full[entries.coords] = entries.data
    return full


@pytest.mark.parametrize("within", [1.0, 0.7, 0.3])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_mean_of_two_features_in_loops(weight: float, within: float) -> None:
    rows = features()
    found = dense(WeightedMean(JACCARD, {"a": weight, "b": 1.0 - weight})(rows, within=within))
    one, other = (dense(Jaccard(8, 3)(rows[name])) for name in ("a", "b"))
    seen = 0
    for i in range(40):
        for j in range(40):
            mean = weight * one[i, j] + (1 - weight) * other[i, j]
            if mean < within - 1e-5:
                assert found[i, j] == pytest.approx(mean, abs=1e-5)
                seen += 1
            elif mean > within + 1e-5:
                assert found[i, j] == 1
    assert seen > 40


class ByCamera:
    """Distance 0 within a camera in the first epoch, 0.5 later."""

    cameras = "required"

    def __call__(self, rows: torch.Tensor, *, cameras: np.ndarray, epoch: int) -> csr_array:
        same = cameras[:, None] == cameras
        places = np.nonzero(same)
        return csr_array((np.full(len(places[0]), 0.0 if epoch == 0 else 0.5, np.float32), places), shape=same.shape)


def test_cameras_and_epoch_reach_the_distance(register: Callable[[str, type], None]) -> None:
    register("distance", ByCamera)
    spec = {"type": "WeightedMean", "of": "ByCamera", "weights": {"a": 0.5, "b": 0.5}}
    made = build("distance", spec)
    assert contract("distance", spec).cameras == "required"
    cameras = np.arange(40) % 3
    for epoch, expected in ((0, 0.0), (1, 0.5)):
        graph = dense(made(features(), cameras=cameras, epoch=epoch))
        assert np.array_equal(graph, np.where(cameras[:, None] == cameras, expected, 1.0))


def test_mean_requires_its_features_before_training(domains_root: Path, tmp_path: Path) -> None:
    mean = {"type": "WeightedMean", "of": JACCARD, "weights": {"embed": 0.5, "upper": 0.5}}
    experiment = tiny_experiment(domains_root)
    experiment["labels"]["distance"] = mean
    with pytest.raises(ConfigError, match="upper"):
        load_config(write_experiment(tmp_path / "mean.yaml", experiment))


@pytest.mark.parametrize("weights", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}])
def test_weights_without_a_sum_of_1_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give each feature a weight of 0 or more, with a sum of 1"):
        WeightedMean(JACCARD, weights)


def test_distance_of_several_features_is_refused() -> None:
    inner = {"type": "WeightedMean", "of": JACCARD, "weights": {"a": 1.0}}
    with pytest.raises(ConfigError, match="WeightedMean combines several features; name a distance of one feature"):
        WeightedMean(inner, {"a": 1.0})


class OfClothes:
    """Distance that needs clothes."""

    def __call__(self, rows: torch.Tensor, clothes: np.ndarray) -> csr_array:
        raise AssertionError


def test_distance_of_another_column_is_refused(register: Callable[[str, type], None]) -> None:
    register("distance", OfClothes)
    with pytest.raises(ConfigError, match="OfClothes needs clothes; only cameras and epoch are passed on"):
        WeightedMean("OfClothes", {"a": 1.0})
