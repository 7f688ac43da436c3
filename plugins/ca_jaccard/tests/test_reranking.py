"""Camera-aware re-ranking equals its dense definition, and finds a person again under another camera."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from reidx_ca_jaccard.reranking import CameraAwareKReciprocal
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.evaluation import KReciprocal, evaluate, rerank


def images(count: int = 90, people: int = 8, shift: float = 0.6, seed: int = 0) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return features (N, D), identities (N,) and cameras (N,) of people whose features each camera shifts."""
    random = np.random.default_rng(seed)
    who, cameras = random.integers(people, size=count), random.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=count)
    x = random.normal(size=(people, 12))[who] + shift * random.normal(size=(4, 12))[cameras]
    return torch.from_numpy((x + 0.5 * random.normal(size=(count, 12))).astype(np.float32)), who, cameras


def by_definition(
    features: Tensor, cameras: np.ndarray, queries: int, k1_intra: int, k1_inter: int, k2_intra: int, k2_inter: int,
    share: float,
) -> np.ndarray:  # fmt: skip
    """Compute the re-ranked distances (Q, G) of the first images to the others, set by set."""
    x = features.double().numpy()
    n = len(x)
    squared = np.array([[((a - b) ** 2).sum() for b in x] for a in x])
    normal = np.array([[(squared[i, j] / squared[i].max()) ** 2 for j in range(n)] for i in range(n)])
    order = [sorted(range(n), key=lambda j, i=i: (j != i, squared[i, j])) for i in range(n)]
    intra = [[j for j in order[i] if cameras[j] == cameras[i]][: k1_intra + 1] for i in range(n)]
    inter = [[j for j in order[i] if cameras[j] != cameras[i]][: k1_inter + 1] for i in range(n)]
    codes = np.zeros((n, n))
    for i in range(n):
        for lists in (intra, inter):
            for j in lists[i]:
                codes[i, j] = math.exp(-normal[i, j]) if i in lists[j] else 0
        codes[i] /= codes[i].sum()
    codes = np.stack([codes[intra[i][:k2_intra] + inter[i][:k2_inter]].mean(axis=0) for i in range(n)])
    result = np.empty((queries, n - queries))
    for i in range(queries):
        for g in range(queries, n):
            common = np.minimum(codes[i], codes[g]).sum()
            result[i, g - queries] = (1 - share) * (1 - common / (2 - common)) + share * normal[i, g]
    return result


def reranked(features: Tensor, cameras: np.ndarray, queries: int, *settings: float) -> np.ndarray:
    """Return the re-ranked distances (Q, G), computed in two blocks."""
    apart = (cameras[:queries], cameras[queries:])
    found = rerank(CameraAwareKReciprocal(*settings), features[:queries], features[queries:], cameras=apart)  # type: ignore[arg-type]
    blocks = [found.block(rows) for rows in (slice(0, 7), slice(7, queries))]
    squared = torch.cdist(features[:queries].double(), features[queries:].double()).square().numpy()
    return np.concatenate([factor for factor, _ in blocks])[:, None] * squared + np.concatenate([rest for _, rest in blocks])


@pytest.mark.parametrize("settings", [(5, 20, 3, 3, 0.3), (3, 6, 1, 0, 0.0), (2, 40, 3, 9, 1.0)], ids=str)
def test_distances_equal_their_definition(settings: tuple[int, int, int, int, float]) -> None:
    x, _, cameras = images()
    assert np.abs(reranked(x, cameras, 20, *settings) - by_definition(x, cameras, 20, *settings)).max() < 2e-6


def test_value_by_hand() -> None:
    """Three images on a line, one per camera, are neighbours of all others.

    The fourth powers of the distances are 1, 1 and 16, so the rows of encodings are e to the powers of 0, -1/16 and -1 (ends),
    and of -1, 0 and -1 (middle, whose own weight counts as an image of its camera).
    """
    x, cameras = torch.tensor([[0.0], [2.0], [1.0]]), np.array([0, 1, 2])
    apart = (cameras[:1], cameras[1:])
    made = rerank(CameraAwareKReciprocal(1, 2, 1, 0, 0.25), x[:1], x[1:], cameras=apart)
    near, far, edge = math.exp(-1 / 16), math.exp(-1), math.exp(-1)
    ends, middle = 1 + near + far, 1 + 2 * edge
    to_end = 2 * far / ends + near / ends
    to_middle = min(1 / ends, edge / middle) + min(far / ends, edge / middle) + min(near / ends, 1 / middle)
    expected = [0.75 * (1 - s / (2 - s)) + 0.25 * n for s, n in ((to_end, 1.0), (to_middle, 1 / 16))]
    assert made.block(slice(0, 1))[1][0] == pytest.approx(expected, abs=1e-6)
    assert made.card() == {
        "method": "camera-aware k-reciprocal", "k1_intra": 1, "k1_inter": 2, "k2_intra": 1, "k2_inter": 0, "lambda": 0.25,
    }  # fmt: skip


def test_same_person_is_found_under_another_camera() -> None:
    x, who, cameras = images(600, 40, shift=1.0, seed=3)
    parts = (x[:100], x[100:], who[:100], who[100:], cameras[:100], cameras[100:])
    apart = (cameras[:100], cameras[100:])
    plain, aware = (
        evaluate(*parts, reranking=rerank(method, x[:100], x[100:], cameras=apart)).mAP
        for method in (KReciprocal(), CameraAwareKReciprocal())
    )
    assert aware > plain + 0.05


def test_subset_is_reranked_by_itself() -> None:
    x, _, cameras = images()
    kept = np.r_[np.arange(0, 20, 2), np.arange(20, 90, 3)]
    settings = (5, 20, 3, 3, 0.3)
    found = reranked(x[kept], cameras[kept], 10, *settings)
    assert np.abs(found - by_definition(x[kept], cameras[kept], 10, *settings)).max() < 2e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"lambda_": 1.5}, "needs 0 <= lambda_ <= 1"), ({"k2_intra": 7}, "CameraAwareKReciprocal: .* needs 1 <= k2_intra")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CameraAwareKReciprocal(**settings)


def test_images_without_a_camera_are_refused() -> None:
    with pytest.raises(DataError, match=r"cameras of 1 of 5 images are unknown \(the first is image 4\)"):
        rerank(CameraAwareKReciprocal(), torch.eye(5)[:2], torch.eye(5)[2:], cameras=(np.array([0, 1]), np.array([0, 1, -1])))


@pytest.mark.parametrize("settings", [{}, {"k1_intra": 2, "k1_inter": 3, "k2_inter": 1}])
def test_memory_bound_covers_one_dense_cluster(settings: dict[str, int]) -> None:
    x, _, cameras = images(400, 1)
    reranker = CameraAwareKReciprocal(**settings)  # type: ignore[arg-type]
    made = reranker(x[:100], x[100:], query_cams=cameras[:100], gallery_cams=cameras[100:])
    stored = 8 * (made.jaccard.queries.nnz + made.jaccard.gallery.nnz)
    assert stored < reranker.bytes_needed(400) < 100 * stored

