"""Features of every difficult kind, and neighbour lists by a full sort."""

from __future__ import annotations

import numpy as np
import pytest


def _draw(kind: str, n: int, d: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if kind == "clustered":
        x = random.normal(size=(max(1, n // 8), d))[random.integers(0, max(1, n // 8), n)]
        return (x + 0.1 * random.normal(size=(n, d))).astype(np.float32)
    if kind == "duplicated":
        return random.normal(size=(max(1, n // 4), d)).astype(np.float32)[
            random.integers(0, max(1, n // 4), n)
        ]
    if kind == "identical":
        return np.repeat(random.normal(size=(1, d)), n, axis=0).astype(np.float32)
    if kind == "outlier":
        x = np.repeat(random.normal(size=(1, d)), n, axis=0).astype(np.float32)
        x[n // 2] *= -1
        return x
    if kind == "grid":
        return random.integers(-1, 2, size=(n, d)).astype(np.float32)
    return random.normal(size=(n, d)).astype(np.float32)


def _sorted_lists(x: np.ndarray, y: np.ndarray, k: int, own: bool) -> tuple[np.ndarray, np.ndarray]:
    squared = ((x[:, None].astype(np.float64) - y[None]) ** 2).sum(axis=2).astype(np.float32)
    if own:
        np.fill_diagonal(squared, -1)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.maximum(np.take_along_axis(squared, order, axis=1), 0)), order


@pytest.fixture(scope="session")
def draw():
    """Function from (kind, n, d, seed) to features (n, d) float32."""
    return _draw


@pytest.fixture(scope="session")
def sorted_lists():
    """Function from (queries, gallery, k, own) to distances and indices; ties by index, each row first if `own`."""
    return _sorted_lists
