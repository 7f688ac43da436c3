"""DBSCAN on a sparse graph against scikit-learn on the dense one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from reidx.errors import ConfigError, DataError
from reidx.labels import DBSCAN


def sparse(matrix: np.ndarray) -> csr_array:
    """The entries below 1, zeros stored."""
    rows, columns = np.nonzero(matrix < 1)
    return csr_array((matrix[rows, columns], (rows, columns)), shape=matrix.shape)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 50),
    seed=st.integers(0, 9999),
    eps=st.sampled_from([0.1, 0.25, 0.5, 0.9]),
    min_samples=st.integers(1, 6),
    symmetric=st.booleans(),
    levels=st.sampled_from([5, 1000]),
)
def test_labels_of_scikit_learn(n, seed, eps, min_samples, symmetric, levels):
    from sklearn.cluster import DBSCAN as Peer

    random = np.random.default_rng(seed)
    distances = (random.integers(0, levels + 1, size=(n, n)) / levels).astype(np.float32) ** 0.2
    if symmetric:
        distances = np.maximum(distances, distances.T)
    np.fill_diagonal(distances, 0)
    expected = Peer(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distances)
    labels = DBSCAN(eps, min_samples)(sparse(distances))
    assert labels.dtype == np.int64
    assert np.array_equal(labels, expected)


def test_worked_out_by_hand():
    # A chain 0-1-2 at 0.2, an image 3 at 0.5 of 2, an image 4 alone; three make a core.
    distances = np.ones((5, 5), np.float32)
    for i, j, d in ((0, 1, 0.2), (1, 2, 0.2), (2, 3, 0.5)):
        distances[i, j] = distances[j, i] = d
    np.fill_diagonal(distances, 0)
    assert DBSCAN(0.3, 3)(sparse(distances)).tolist() == [0, 0, 0, -1, -1]
    assert DBSCAN(0.5, 3)(sparse(distances)).tolist() == [0, 0, 0, 0, -1]
    assert DBSCAN(0.1, 1)(sparse(distances)).tolist() == [0, 1, 2, 3, 4]


def test_the_diagonal_counts_even_if_not_stored():
    graph = csr_array(np.array([[0, 0.2], [0.2, 0]], np.float32))
    assert graph.nnz == 2
    assert DBSCAN(0.3, 2)(graph).tolist() == [0, 0]


def test_what_cannot_be_clustered_is_said():
    for eps in (0, 1, 1.5):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            DBSCAN(eps=eps)
    with pytest.raises(ConfigError, match="at least 1"):
        DBSCAN(min_samples=0)
    with pytest.raises(DataError, match=r"\(N, N\)"):
        DBSCAN()(csr_array(np.zeros((2, 3))))
    with pytest.raises(DataError, match="finite"):
        DBSCAN()(csr_array(np.array([[0, np.nan], [np.nan, 0]])))
