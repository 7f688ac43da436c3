"""Camera-aware Jaccard distances equal their dense definition, and find a person again under another camera."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from reidx_ca_jaccard.distance import CAJaccard
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels import DBSCAN, Jaccard
from reidx.labels.pipeline import quality


def clustered(images: int = 160, dim: int = 8, people: int = 12, seed: int = 0) -> Tensor:
    """Return features (N, D), not of length 1, of images of a few people."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, dim))
    x = centres[random.integers(people, size=images)] + 0.5 * random.normal(size=(images, dim))
    return torch.from_numpy(x.astype(np.float32))


def with_ties(images: int = 160) -> Tensor:
    """Return features of equal length with entries of ±1, many of them equal: most distances occur several times, exactly."""
    random = np.random.default_rng(1)
    kinds = random.choice([-1.0, 1.0], size=(40, 16))
    return torch.from_numpy(kinds[random.integers(40, size=images)].astype(np.float32))


def random_cameras(shares: list[float], images: int = 160) -> np.ndarray:
    return np.random.default_rng(2).choice(len(shares), p=shares, size=images)


def by_definition(
    features: Tensor, cameras: np.ndarray, k1_intra: int, k1_inter: int, k2_intra: int, k2_inter: int
) -> np.ndarray:
    """Compute the distances (N, N) from loops over images and dense matrices."""
    x = (features / features.norm(dim=1, keepdim=True)).double().numpy()
    n = len(x)
    squared = ((x[:, None] - x[None]) ** 2).sum(-1).astype(np.float32)

    def nearest(i: int, allowed: np.ndarray, count: int) -> list[int]:
        order = sorted(np.flatnonzero(allowed), key=lambda j: (j != i, squared[i, j], j))
        return [int(j) for j in order[:count]]

    intra = [nearest(i, cameras == cameras[i], k1_intra + 1) for i in range(n)]
    inter = [nearest(i, cameras != cameras[i], k1_inter + 1) for i in range(n)]
    v = np.zeros((n, n))
    for i in range(n):
        for lists in (intra, inter):
            for j in lists[i]:
                if i in lists[j]:
                    v[i, j] = math.exp(-squared[i, j])
    v /= v.sum(1, keepdims=True)
    w = np.stack([v[intra[i][:k2_intra] + inter[i][:k2_inter]].mean(0) for i in range(n)])
    s = np.stack([np.minimum(row, w).sum(1) for row in w])
    return 1 - s / (2 - s)


def dense(graph) -> np.ndarray:
    """Return the distances (N, N); pairs that are not stored are at distance 1."""
    whole = np.ones(graph.shape)
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    whole[rows, graph.indices] = graph.data
    return whole


EVEN, UNEVEN = [0.25] * 4, [0.7, 0.2, 0.07, 0.03]


@pytest.mark.parametrize("settings", [(5, 20, 2, 4), (3, 6, 1, 0), (8, 2, 9, 3)], ids=str)
@pytest.mark.parametrize("features", [clustered, with_ties])
@pytest.mark.parametrize("shares", [EVEN, UNEVEN, [1.0]], ids=["even", "uneven", "one camera"])
def test_distances_equal_their_definition(
    features: Callable[[], Tensor], shares: list[float], settings: tuple[int, int, int, int]
) -> None:
    x, cameras = features(), random_cameras(shares)
    graph = CAJaccard(*settings)(x, cameras=cameras)
    assert np.abs(dense(graph) - by_definition(x, cameras, *settings)).max() < 2e-6
    assert graph.dtype == np.float32
    assert (dense(graph) == dense(graph).T).all()
    assert (graph.diagonal() < 1e-5).all()


def test_first_epoch_averages_other_numbers() -> None:
    x, cameras = clustered(), random_cameras(EVEN)
    distance = CAJaccard(5, 20, 2, 4, k2_first=3)
    for epoch, numbers in ((0, (3, 3)), (1, (2, 4)), (None, (2, 4))):
        found = dense(distance(x, cameras=cameras, epoch=epoch))
        assert np.abs(found - by_definition(x, cameras, 5, 20, *numbers)).max() < 2e-6
    assert (dense(CAJaccard()(x, cameras=cameras, epoch=0)) == dense(CAJaccard()(x, cameras=cameras))).all()


def test_lists_end_early_in_small_cameras() -> None:
    x = clustered(30)
    for cameras in (np.arange(30), np.arange(30) // 2, np.minimum(np.arange(30), 1)):  # 1 image, 2 images; 1 and 29 images
        expected = by_definition(x, cameras, 5, 40, 2, 4)
        assert np.abs(dense(CAJaccard(5, 40)(x, cameras=cameras)) - expected).max() < 2e-6


def test_value_by_hand() -> None:
    """Two people, each in both cameras: all are neighbours of all, and the distance of the people is 1 - exp(-2)."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    graph = CAJaccard(k1_intra=1, k1_inter=1, k2_intra=1, k2_inter=1)(x, cameras=np.array([0, 0, 1, 1]))
    same, other = 0.0, 1 - math.exp(-2)
    assert dense(graph) == pytest.approx(np.tile([[same, other], [other, same]], (2, 2)), abs=1e-6)


def test_within_leaves_out_only_distances_beyond_it() -> None:
    x, cameras = clustered(), random_cameras(EVEN)
    whole, near = (dense(CAJaccard()(x, cameras=cameras, within=within)) for within in (1.0, 0.6))
    assert (near == np.where(whole <= np.float32(0.6), whole, 1)).all()
    assert 0.05 < (near < 1).mean() < (whole < 1).mean()


def test_graph_depends_on_no_backend_threads_or_camera_numbers() -> None:
    x, cameras = clustered(), random_cameras(UNEVEN)
    expected = dense(CAJaccard()(x, cameras=cameras))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert (dense(CAJaccard(backend="torch")(x, cameras=cameras)) == expected).all()
    finally:
        torch.set_num_threads(threads)
    assert (dense(CAJaccard(sharded=True)(x, cameras=np.array([7, 2, 9, 0])[cameras])) == expected).all()


def test_same_person_is_found_under_another_camera() -> None:
    """Each camera shifts the features of all people, so that the plain distance separates the cameras of a person."""
    random = np.random.default_rng(3)
    people, cameras = np.repeat(np.arange(30), 16), np.tile(np.arange(4), 120)
    shift = 0.9 * random.normal(size=(4, 32))
    x = random.normal(size=(30, 32))[people] + shift[cameras] + 0.45 * random.normal(size=(480, 32))
    features = torch.from_numpy(x.astype(np.float32))
    plain = quality(DBSCAN(eps=0.6)(Jaccard(k1=26, k2=6)(features)), people)["ari"]
    aware = quality(DBSCAN(eps=0.6)(CAJaccard()(features, cameras=cameras)), people)["ari"]
    assert aware > plain + 0.1


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (np.array([0, 0, -1, 1, 1, -1]), r"cameras of 2 of 6 images are unknown \(the first is image 2\)"),
        (np.array([0, 1]), r"cameras of shape \(2,\) for 6 images"),
    ],
)
def test_images_without_a_camera_are_refused(cameras: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CAJaccard()(clustered(6), cameras=cameras)


@pytest.mark.parametrize(
    "settings", [{"k1_intra": 0}, {"k2_intra": 0}, {"k1_inter": 2}, {"k2_inter": -1}, {"k2_first": 7}], ids=str
)
def test_lists_shorter_than_their_average_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="needs 1 <= k2_intra <= k1_intra"):
        CAJaccard(**settings)
