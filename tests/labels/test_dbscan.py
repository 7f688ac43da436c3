"""DBSCAN on a sparse graph against scikit-learn on the dense one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from reidx.errors import ConfigError, DataError
from reidx.labels import DBSCAN, AdaptiveDBSCAN


def sparse(matrix: np.ndarray) -> csr_array:
    """Return the entries below 1 as a sparse array that stores zeros."""
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
    # A chain 0-1-2 at 0.2, image 3 at 0.5 from image 2, image 4 isolated; three images make a core.
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


def test_bad_settings_and_input_are_refused():
    for eps in (0, 1, 1.5):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            DBSCAN(eps=eps)
    with pytest.raises(ConfigError, match="at least 1"):
        DBSCAN(min_samples=0)
    with pytest.raises(DataError, match=r"\(N, N\)"):
        DBSCAN()(csr_array(np.zeros((2, 3))))
    with pytest.raises(DataError, match="finite"):
        DBSCAN()(csr_array(np.array([[0, np.nan], [np.nan, 0]])))


# ---- eps found from the data


def naive_eps(distances: np.ndarray, share: float) -> float:
    """Return the mean distance of the nearest share of all pairs, without pairs at distance 0."""
    pairs = [distances[i, j] for i in range(len(distances)) for j in range(i) if distances[i, j] > 0]
    count = round(share * len(pairs))
    return sum(sorted(pairs)[:count]) / count


@pytest.mark.parametrize(("share", "far"), [(0.05, 0.0), (0.3, 0.0), (0.3, 0.8)])
def test_eps_is_mean_of_nearest_pairs(share: float, far: float) -> None:
    random = np.random.default_rng(3)
    distances = random.uniform(0.1, 0.9, size=(30, 30))
    distances = np.minimum(distances, distances.T)
    distances[random.uniform(size=(30, 30)) < far] = 1.0
    distances = np.maximum(distances, distances.T)
    distances[4, 7] = distances[7, 4] = 0.0
    np.fill_diagonal(distances, 0)
    clusterer = AdaptiveDBSCAN(share, 2)
    labels = clusterer(sparse(distances))
    eps = naive_eps(distances, share)
    assert clusterer.eps == pytest.approx(eps, abs=1e-12)
    assert labels.tolist() == DBSCAN(eps, 2)(sparse(distances)).tolist()


def test_eps_of_first_labelling_survives_a_resume() -> None:
    near, wide = (np.full((6, 6), d) - d * np.eye(6) for d in (0.25, 0.5))
    clusterer = AdaptiveDBSCAN(0.5, 2)
    assert clusterer.reach == 1.0
    assert not clusterer.notes()
    assert clusterer.state_dict()["eps"] == 0.0
    assert clusterer(sparse(near)).tolist() == [0] * 6
    assert clusterer.reach == pytest.approx(0.25) and "0.2500" in clusterer.notes()[0]
    resumed = AdaptiveDBSCAN(0.5, 2)
    resumed.load_state_dict(clusterer.state_dict())
    for one in (clusterer, resumed):
        assert one(sparse(wide)).tolist() == [-1] * 6
    other = AdaptiveDBSCAN(0.4, 2)  # resumed with another share
    other.load_state_dict(clusterer.state_dict())
    assert other(sparse(wide)).tolist() == [0] * 6
    fresh = AdaptiveDBSCAN(0.5, 2)
    fresh.load_state_dict(AdaptiveDBSCAN(0.5, 2).state_dict())
    assert fresh(sparse(wide)).tolist() == [0] * 6


def test_eps_that_cannot_be_found_is_refused() -> None:
    with pytest.raises(ConfigError, match="share is 0"):
        AdaptiveDBSCAN(0.0)
    with pytest.raises(DataError, match="raise share"):
        AdaptiveDBSCAN(0.001)(sparse(np.full((4, 4), 0.5)))
    with pytest.raises(DataError, match="share no neighbours"):
        AdaptiveDBSCAN(0.5)(sparse(np.ones((4, 4)) - np.eye(4)))
