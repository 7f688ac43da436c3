"""Wholly or partly collapsed features: exact lists without a comparison of all pairs, then labels or a refusal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from reidx.errors import DataError
from reidx.labels import (
    DBSCAN,
    HDBSCAN,
    AdaptiveDBSCAN,
    Cosine,
    InfoMap,
    Jaccard,
    KMeans,
    MiniBatchKMeans,
    knn,
)
from reidx.labels import graph as neighbour_graph
from reidx.labels.distances import jaccard
from reidx.labels.neighbours import candidates, duplicates
from reidx.labels.neighbours import exact as neighbours
from reidx.labels.neighbours.duplicates import group_equal_rows
from reidx.labels.pipeline import LabelPipeline
from reidx.machine import free_memory as memory

N, D, K = 600, 64, 12


def _clump(random: np.random.Generator, n: int, noise: float) -> np.ndarray:
    return random.normal(size=(1, D)) / 8 + noise * random.normal(size=(n, D)) / 8


def _few_rows(random: np.random.Generator) -> np.ndarray:
    return (random.normal(size=(7, D)) / 8)[random.integers(0, 7, N)]


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "identical": lambda r: np.repeat(r.normal(size=(1, D)), N, axis=0),
    "copies of a few": _few_rows,
    "copies of a few and others": lambda r: np.concatenate([_few_rows(r)[: N // 2], r.normal(size=(N // 2, D)) / 8]),
    "one clump": lambda r: _clump(r, N, 1e-4),
    "one tight clump": lambda r: _clump(r, N, 1e-7),
    "half a clump": lambda r: np.concatenate([_clump(r, N // 2, 1e-4), r.normal(size=(N // 2, D)) / 8]),
    "clumps": lambda r: np.concatenate([_clump(r, N // 6, 1e-4) for _ in range(6)]),
    "clumps of several sizes": lambda r: np.concatenate([_clump(r, N // 6, 10.0**-size) for size in range(1, 7)]),
    "a clump within a clump": lambda r: np.concatenate(
        [point := _clump(r, 1, 0), *(point + 10.0**-size * r.normal(size=(N // 3, D)) for size in (2, 4, 6))]
    )[:N],
    "a line": lambda r: _clump(r, 1, 0) + 1e-4 * r.normal(size=(N, 1)) * _clump(r, 1, 0),
    "a clump and its copies": lambda r: np.concatenate([x := _clump(r, N // 10, 1e-5), *([x] * 9)]),
    "a clump of tiny numbers": lambda r: _clump(r, N, 1e-4) * 1e-18,
    "zeros of two signs": lambda r: np.where(r.random((N, D)) < 0.5, 0.0, -0.0) * np.eye(1, D),
}


@pytest.fixture(params=KINDS)
def collapsed(request: pytest.FixtureRequest) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.permutation(KINDS[request.param](random).astype(np.float32))


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_lists_are_exact(monkeypatch, sorted_lists, collapsed, backend, quick):
    monkeypatch.setattr(candidates, "has_bfloat16", lambda: quick)
    distances, indices = knn(collapsed, K, backend=backend)
    expected, order = sorted_lists(collapsed, collapsed, K, own=True)
    assert np.array_equal(indices, order) and np.allclose(distances, expected, rtol=1e-6, atol=0)


def test_lists_of_other_rows_are_exact(sorted_lists, collapsed):
    gallery, queries = collapsed[100:], collapsed[:100]
    assert np.array_equal(knn(gallery, K, queries=queries)[1], sorted_lists(queries, gallery, K, own=False)[1])


def test_lists_of_some_rows_equal_the_whole(collapsed):
    features = torch.from_numpy(collapsed)
    squared, indices = neighbours.nearest(features, K)
    for rows in (slice(0, 201), slice(201, N), slice(7, 7)):
        part = neighbours.nearest(features, K, rows=rows)
        assert np.array_equal(part[0], squared[rows]) and np.array_equal(part[1], indices[rows])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a line"])
def test_few_rows_are_compared_with_all(monkeypatch, kind):
    random = np.random.default_rng(0)
    x = random.permutation(KINDS[kind](random).astype(np.float32))
    compared = []
    monkeypatch.setattr(neighbours, "in_threads", lambda kernel, rows, *rest, **options: compared.append(rows))
    knn(x, K)
    assert compared and max(compared) <= N // 20


@pytest.mark.parametrize("noise", [1e-3, 1e-5])
def test_approximate_lists_work_in_a_clump(noise):
    random = np.random.default_rng(0)
    clouds = random.normal(size=(60, D))[random.integers(0, 60, 3000)] + 0.3 * random.normal(size=(3000, D))
    x = (random.normal(size=(1, D)) + noise * clouds).astype(np.float32)
    found, exact = knn(x, K, backend="ivf"), knn(x, K)
    assert (found[0] <= exact[0][:, -1:]).mean() > 0.9


def test_approximate_search_of_low_recall_is_refused(monkeypatch):
    def poor(gallery, queries, k, dtype):
        numbers = np.arange(len(gallery), dtype=np.int32)
        return lambda rows: (np.tile(numbers[:20], (len(rows), 1)), np.full(len(rows), np.inf))

    monkeypatch.setattr(candidates, "ivf", poor)
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    with pytest.raises(DataError, match=r"found 2\d% of the 5 nearest rows.*Use backend auto"):
        knn(x, 5, backend="ivf")


def test_copies_fill_lists_in_index_order():
    x = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)[np.random.default_rng(0).permutation(120)]
    indices = knn(x, 100)[1]
    for i in range(120):
        squared = ((x - x[i]) ** 2).sum(1)
        squared[i] = -1
        assert indices[i].tolist() == np.argsort(squared, kind="stable")[:100].tolist()
    assert knn(x, 500)[1].shape == (120, 120)


def test_kinds_are_numbered_by_their_first_rows(monkeypatch):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)[np.arange(100) * 7 % 5]
    found = group_equal_rows(x)
    assert found is not None
    assert found.kind.tolist() == [i % 5 for i in range(100)] and found.first.tolist() == [0, 1, 2, 3, 4]
    assert found.starts.tolist() == [0, 20, 40, 60, 80, 100]
    assert found.members.reshape(5, 20).tolist() == [list(range(kind, 100, 5)) for kind in range(5)]
    assert group_equal_rows(x[:40]) is None and group_equal_rows(x[:0]) is None  # too few copies of each row
    clash = lambda start, stop, bits, factors, hashes: hashes.__setitem__(slice(start, stop), 0)  # noqa: E731
    monkeypatch.setattr(duplicates, "_hash", clash)
    again = group_equal_rows(x)
    assert again is not None and all(np.array_equal(mine, its) for mine, its in zip(found, again, strict=True))


# ---- graphs and labels


@pytest.mark.parametrize("n", [12_500, 20_001, 60_000])
@pytest.mark.parametrize("within", [0.6, 1.0])
def test_graph_of_identical_rows_is_refused_early(n: int, within: float) -> None:
    with pytest.raises(DataError, match=rf"{n:,} of {n:,} images within distance {within:g}: .*network may have collapsed"):
        Jaccard()(torch.ones(n, 2), within)


def test_half_collapsed_features_are_refused() -> None:
    x = torch.randn(26_000, 16, generator=torch.Generator().manual_seed(0))
    x[::2] = 1.0
    with pytest.raises(DataError, match=r"[67],\d\d\d of 26,000 images within distance 0.6: the graph would take 2\.\d GB"):
        Jaccard()(x, 0.6)


@pytest.mark.parametrize("n", [1, 2, 100, 4_500])
def test_fewer_identical_rows_are_one_cluster(n: int) -> None:
    graph = Jaccard()(torch.ones(n, 2), 0.6)
    assert DBSCAN(0.6, 1)(graph).tolist() == [0] * n


def test_counting_common_neighbours_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identical rows under an eps that stores nearly none of their pairs."""
    x = torch.ones(4_500, 2)
    assert Jaccard()(x, within=0.1).nnz < 10_000
    monkeypatch.setattr(jaccard, "_LOOKS", 4_500**2)
    with pytest.raises(DataError, match=r"[23]\d common neighbours of each pair of images would have to be counted"):
        Jaccard()(x, within=0.1)


@pytest.mark.parametrize("clusterer", [HDBSCAN(), InfoMap(), AdaptiveDBSCAN(0.5)])
def test_clusterers_state_the_memory_of_a_graph(monkeypatch: pytest.MonkeyPatch, clusterer: object) -> None:
    graph = Cosine(20)(torch.rand(200, 8, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(neighbour_graph, "free_memory", lambda: 1e4)
    with pytest.raises(DataError, match=r"(distances|links) of 200 images would take 0\.\d GB, but 0\.0 GB are free"):
        clusterer(graph)  # type: ignore[operator]


COPIES = np.repeat(np.arange(3), 40)[np.random.default_rng(0).permutation(120)]


@pytest.mark.parametrize(
    ("distance", "clusterer"),
    [
        (Jaccard(), DBSCAN()),
        (Jaccard(), HDBSCAN()),
        (Jaccard(), AdaptiveDBSCAN(0.2)),
        (Jaccard(), InfoMap()),
        (Jaccard(backend="ivf"), DBSCAN()),
        (Cosine(), DBSCAN()),
        (Cosine(), HDBSCAN()),
        (Cosine(), InfoMap()),
        (Cosine(3), DBSCAN(0.5, 2)),
        (None, KMeans(3)),
        (None, KMeans(50)),
        (None, MiniBatchKMeans(3)),
        (None, MiniBatchKMeans(50)),
    ],
    ids=lambda part: type(part).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_copies_of_one_image_are_one_cluster(distance: object, clusterer: object) -> None:
    points = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    labels = LabelPipeline("embed", distance, clusterer)(
        {"embed": torch.from_numpy(points[COPIES])}, epoch=0, cameras=np.zeros(120, np.int64)
    ).labels
    pairs = set(zip(COPIES.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == 3 and -1 not in labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("clusterer", [KMeans(20), MiniBatchKMeans(20)])
def test_equal_rows_are_never_separated(clusterer: object) -> None:
    """Most centroids are equally near, so that rounding would decide for each row."""
    x = torch.ones(5_000, 32) / 3
    assert set(clusterer(x).tolist()) == {0}  # type: ignore[operator]


def test_first_of_equal_images_links_to_all() -> None:
    graph = Cosine(4)(torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 7))
    assert np.diff(graph.indptr).tolist() == [3, 3, 3, 7, 4, 4, 4, 4, 4, 4]
    assert graph.has_canonical_format and (graph.data == 0).all()
    assert DBSCAN(0.5, 2)(graph).tolist() == [0] * 3 + [1] * 7


def test_no_cluster_of_equal_images_blames_network() -> None:
    pipeline = LabelPipeline("embed", Jaccard(), HDBSCAN())
    with pytest.raises(DataError, match=r"HDBSCAN found no cluster .*the network may have collapsed"):
        pipeline({"embed": torch.ones(50, 4)}, epoch=0, cameras=np.zeros(50, np.int64))


def test_process_limit_counts_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    taken = memory._field(memory.Path("/proc/self/status"), "VmSize:") * 1024
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (taken + 5e6, taken + 5e6))
    assert 0 <= memory.free_memory() <= 5e6 + 1e8
    assert memory._limit() < 1e8
