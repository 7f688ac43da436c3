"""k-means, HDBSCAN and InfoMap: clear clusters, contracts and refusals."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from reidx.errors import ConfigError, DataError, ReidxError
from reidx.labels import DBSCAN, HDBSCAN, Cosine, InfoMap, Jaccard, KMeans, MiniBatchKMeans


def clouds(sizes: list[int], width: int = 8, spread: float = 0.05) -> tuple[torch.Tensor, np.ndarray]:
    """Return unit features around random directions, with interleaved clusters, and the cluster of each row."""
    random = np.random.default_rng(0)
    centres = np.linalg.qr(random.normal(size=(width, width)))[0][: len(sizes)]
    truth = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = centres[truth] + spread * random.normal(size=(len(truth), width))
    return torch.nn.functional.normalize(torch.from_numpy(x).float(), dim=1), truth


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return len(np.unique(np.stack([a, b]), axis=1).T) == len(np.unique(a)) == len(np.unique(b))


def graph_of(pairs: dict[tuple[int, int], float], n: int) -> csr_array:
    both = {**pairs, **{(j, i): d for (i, j), d in pairs.items()}, **{(i, i): 0.0 for i in range(n)}}
    rows, columns = zip(*both, strict=True)
    return csr_array((np.array(list(both.values()), np.float32), (rows, columns)), shape=(n, n))


ALL = [
    (DBSCAN(), Jaccard(10, 3)),
    (HDBSCAN(8), Jaccard(20, 3)),
    (InfoMap(), Cosine(8)),
    (KMeans(4, restarts=3), None),
    (MiniBatchKMeans(4), None),
]


@pytest.mark.parametrize(("clusterer", "distance"), ALL, ids=lambda part: type(part).__name__)
def test_clear_clusters_are_found_reproducibly(clusterer, distance):
    features, truth = clouds([12, 20, 9, 15])
    given = features if distance is None else distance(features)
    labels = clusterer(given)
    assert labels.dtype == np.int64 and labels.shape == (56,)
    assert set(labels) == {0, 1, 2, 3}
    assert same_partition(labels, truth)
    assert np.array_equal(labels, clusterer(given))
    assert clusterer.clusterer_input == ("features" if distance is None else "graph")
    assert clusterer.outliers in ("emits", "never")


@pytest.mark.parametrize("clusterer", [KMeans(5), MiniBatchKMeans(5)], ids=["KMeans", "MiniBatchKMeans"])
def test_k_means_labels_have_no_gaps(clusterer):
    features = torch.eye(3, 4).repeat(4, 1)  # three distinct rows for five clusters
    labels = clusterer(features)
    assert set(labels) == set(range(labels.max() + 1)) and labels.max() < 5
    assert len(np.unique(np.stack([labels[:3], labels[3:6]]), axis=1).T) == 3  # equal rows, equal labels
    with pytest.raises(DataError, match="lower n_clusters"):
        clusterer(features[:4])


@pytest.mark.parametrize("clusterer", [KMeans, MiniBatchKMeans])
def test_k_means_with_and_without_normalisation(clusterer):
    # two directions with short and long vectors each: clusters by position differ from clusters by direction
    directions, lengths = torch.eye(2).repeat_interleave(10, 0), torch.tensor([1.0, 9.0]).repeat(10)
    features = directions * lengths[:, None] + 0.01 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    by_direction = clusterer(2, normalize=True)(features)
    assert same_partition(by_direction, directions[:, 0].numpy())
    as_they_are = clusterer(3, restarts=5)(features)
    assert not same_partition(as_they_are[lengths.numpy() == 1], directions[lengths == 1, 0].numpy())


def test_k_means_reaches_a_fixed_point():
    features, _ = clouds([12, 20, 9, 15], spread=0.4)
    labels = KMeans(4, iterations=60)(features)
    centres = torch.stack([features[labels == k].mean(dim=0) for k in range(4)])
    assert np.array_equal(torch.cdist(features, centres).argmin(dim=1).numpy(), labels)


@pytest.mark.parametrize("least", [3, 5])
def test_hdbscan_matches_the_dense_matrix(least):
    from sklearn.cluster import HDBSCAN as Peer

    for seed in range(6):
        features = torch.randn(90, 3, generator=torch.Generator().manual_seed(seed))
        graph = Jaccard(8, 3)(features)
        entries = graph.tocoo()
        matrix = np.ones(graph.shape)
        matrix[entries.row, entries.col] = np.maximum(entries.data, 1e-9)
        # With every pair stored, scikit-learn breaks ties between equal edges as it does for the sparse graph.
        peer = Peer(min_cluster_size=least, min_samples=least, metric="precomputed", copy=False)
        expected = peer.fit_predict(csr_array(matrix))
        assert expected.max() >= 2
        assert same_partition(HDBSCAN(least)(graph), expected)


def test_hdbscan_merges_by_epsilon():
    graph = Jaccard(10, 3)(clouds([12, 20, 9, 15])[0])
    try:
        merged = HDBSCAN(3, epsilon=0.9)(graph)
    except ReidxError as error:
        assert "epsilon" in str(error) and np.__version__ in str(error)
    else:
        assert merged.max() <= HDBSCAN(3)(graph).max()


@pytest.mark.parametrize("clusterer", [DBSCAN(), HDBSCAN(), InfoMap()], ids=lambda part: type(part).__name__)
def test_a_graph_is_sparse_and_of_floats(clusterer):
    twins = np.zeros((8, 8), np.float32)  # dense: eight equal images; converted to sparse: no pair at all
    for given in (twins, torch.from_numpy(twins), twins.tolist(), "graph"):
        with pytest.raises(DataError, match="sparse"):
            clusterer(given)
    with pytest.raises(DataError, match="floats"):
        clusterer(csr_array(np.ones((3, 3), int)))  # integers would turn an eps of 0.6 into 0


@pytest.mark.parametrize("clusterer", [KMeans(5), MiniBatchKMeans(5)], ids=["KMeans", "MiniBatchKMeans"])
def test_k_means_refuses_fatal_input(clusterer):
    for features in (torch.full((50, 3), 1e25), torch.zeros(50, 0)):
        with pytest.raises(DataError, match="features"):
            clusterer(features)


def test_hdbscan_takes_disconnected_and_empty_graphs():
    labels = HDBSCAN(2)(graph_of({(0, 1): 0.1, (2, 3): 0.1, (4, 5): 0.1}, 7))
    assert labels[0] == labels[1] != labels[2] == labels[3] != labels[4] == labels[5]
    assert set(HDBSCAN(3)(graph_of({}, 6))) <= {-1, 0}
    assert HDBSCAN(4)(graph_of({}, 2)).tolist() == [-1, -1]


def test_infomap_drops_weak_links_and_small_communities():
    # Three triangles; the last one's links are too weak, the pair 9-10 too small.
    pairs = {}
    for base, distance in ((6, 0.3), (0, 0.5), (3, 0.51)):
        for a, b in ((0, 1), (1, 2), (0, 2)):
            pairs[base + a, base + b] = distance
    pairs[9, 10] = 0.1
    labels = InfoMap(min_similarity=0.5, min_size=3)(graph_of(pairs, 11))
    assert labels.tolist() == [0, 0, 0, -1, -1, -1, 1, 1, 1, -1, -1]  # communities are numbered by their first image
    assert InfoMap(min_size=1)(graph_of({}, 3)).tolist() == [0, 1, 2]
    assert InfoMap()(graph_of({}, 3)).tolist() == [-1, -1, -1]
    # an experiment may have seed 0, but the seeds of infomap begin at 1
    assert np.array_equal(InfoMap(min_similarity=0.5, min_size=3, seed=0)(graph_of(pairs, 11)), labels)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"reidx\[infomap\]"):
        InfoMap()  # the constructor refuses, hence before a run begins
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="faiss"):
        KMeans(2)(torch.eye(4))
    with pytest.raises(ConfigError, match="faiss"):
        Jaccard(backend="faiss")(torch.eye(4))
    assert Jaccard(backend="auto")(torch.eye(4)).shape == (4, 4)


def test_cosine_graph_holds_only_near_pairs():
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]])
    graph = Cosine(3)(features)
    assert graph.indptr.tolist() == [
        0,
        2,
        4,
        5,
    ]  # cosines 0.6, -1, -0.6: only the first is below distance 1
    assert graph[0, 1] == pytest.approx(0.4, abs=1e-6) and graph[1, 0] == pytest.approx(0.4, abs=1e-6)
    assert Cosine(1)(features).toarray().tolist() == np.zeros((3, 3)).tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KMeans(0), "at least 1"),
        (lambda: MiniBatchKMeans(batch_size=0), "at least 1"),
        (lambda: HDBSCAN(1), "at least 2"),
        (lambda: HDBSCAN(selection="best"), "eom, leaf"),
        (lambda: HDBSCAN(epsilon=1), "epsilon"),
        (lambda: InfoMap(min_similarity=1.0), "between 0 and 1"),
        (lambda: InfoMap(min_size=0), "at least 1"),
        (lambda: InfoMap(seed=-1), "seed at least 0"),
        (lambda: Cosine(0), "at least 1"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
