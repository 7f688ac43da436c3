"""faiss on a CUDA device gives the lists of the CPU; without a GPU, the calls are tested on stand-ins of faiss's classes."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
import torch

from reidx.errors import ConfigError
from reidx.labels.clusterers.kmeans import KMeans
from reidx.labels.neighbours import on_gpu
from reidx.labels.neighbours.exact import knn

GPU = torch.device("cuda", 1)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the GPU's classes by those of the CPU; return the list of the devices that are asked for."""
    asked: list[int] = []

    class Config:
        device = -1

    def flat(metric: int) -> Any:
        def build(resources: object, width: int, config: Config) -> Any:
            asked.append(config.device)
            return faiss.IndexFlat(width, metric)

        return build

    def inverted(resources: object, width: int, cells: int, metric: int, config: Config) -> Any:
        asked.append(config.device)
        return faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, cells, metric)

    for name, value in {
        "StandardGpuResources": object,
        "GpuIndexFlatConfig": Config,
        "GpuIndexIVFFlatConfig": Config,
        "GpuIndexFlatL2": flat(faiss.METRIC_L2),
        "GpuIndexFlatIP": flat(faiss.METRIC_INNER_PRODUCT),
        "GpuIndexIVFFlat": inverted,
        "get_num_gpus": lambda: 2,
    }.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    return asked


def clustered(count: int = 3000) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.standard_normal((60, 16))
    return (centres[random.integers(60, size=count)] + 0.3 * random.standard_normal((count, 16))).astype(np.float32)


def test_faiss_on_a_device_finds_the_same_lists(devices: list[int]) -> None:
    x = clustered()
    for queries in (None, x[:40] + 0.01):
        found = knn(x, 9, queries=queries, backend="faiss", device=GPU)
        expected = knn(x, 9, queries=queries)
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
    assert devices == [1, 1]


def test_ivf_on_a_device_finds_most(devices: list[int], caplog: pytest.LogCaptureFixture) -> None:
    x = clustered()
    with caplog.at_level("INFO", logger="reidx.labels.neighbours.exact"):
        found, exact = knn(x, 10, backend="ivf", device=GPU)[1], knn(x, 10)[1]
    share = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])
    assert 0.9 < share <= 1
    assert float(caplog.records[0].getMessage().split("recall ")[1].split()[0]) == pytest.approx(share, abs=0.05)
    assert set(devices) == {1}


@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_on_a_device_equals_the_cpu(devices: list[int], spherical: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from reidx.labels.clusterers import kmeans

    x = torch.from_numpy(clustered(800))
    clusterer = KMeans(n_clusters=30, restarts=2, spherical=spherical, normalize=spherical)
    expected = clusterer(x)
    assert not devices

    class Features(torch.Tensor):
        device = GPU  # type: ignore[assignment]

    rows = kmeans._enough(x, 30, spherical, "KMeans")
    monkeypatch.setattr(kmeans, "_enough", lambda *_: rows)
    labels = clusterer(x.as_subclass(Features))
    assert devices == [1]
    assert np.array_equal(labels, expected)


def test_faiss_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    for backend in ("faiss", "ivf"):
        with pytest.raises(ConfigError, match="sees no GPU cuda:1: install faiss-gpu"):
            knn(torch.eye(9), 3, backend=backend, device=GPU)
    with pytest.raises(ConfigError, match="no code for the device mps"):
        knn(torch.eye(9), 3, backend="faiss", device="mps")


def test_more_neighbours_than_a_gpu_finds_are_refused(devices: list[int]) -> None:
    with pytest.raises(ConfigError, match="at most 2,048"):
        on_gpu.exact_on_gpu(clustered(), GPU)(clustered(2), 2049)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_lists_and_labels_of_the_cpu() -> None:
    x = torch.from_numpy(clustered())
    for on_cpu, there in zip(knn(x, 20), knn(x.cuda(), 20, backend="faiss"), strict=True):
        assert np.array_equal(on_cpu, there)
    found, exact = knn(x.cuda(), 10, backend="ivf")[1], knn(x, 10)[1]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]) > 0.9
    labels, expected = KMeans(n_clusters=60, restarts=3)(x.cuda()), KMeans(n_clusters=60, restarts=3)(x)
    assert len(np.unique(labels)) > 50 and len(np.unique(expected)) > 50
