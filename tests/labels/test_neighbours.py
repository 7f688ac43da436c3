"""knn against a full sort of float64 distances, on each backend and on input full of ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.errors import ConfigError, DataError
from reidx.labels import knn
from reidx.labels.neighbours import approximate
from reidx.labels.neighbours import candidates as proposals

BACKENDS = ["auto", "faiss", "torch"]
KINDS = ["gaussian", "clustered", "duplicated", "identical", "outlier", "grid"]


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 90),
    d=st.integers(1, 12),
    k=st.integers(1, 33),
    seed=st.integers(0, 9999),
    unit=st.booleans(),
)
def test_equals_a_full_sort(draw, sorted_lists, backend, kind, n, d, k, seed, unit):
    x = draw(kind, n, d, seed)
    if unit:
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    distances, indices = knn(torch.from_numpy(x), k, backend=backend)
    expected, order = sorted_lists(x, x, k, own=True)
    assert distances.dtype == np.float32 and indices.dtype == np.int64
    assert distances.shape == indices.shape == (n, min(k, n))
    assert np.array_equal(indices, order)
    assert np.allclose(distances, expected, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_separate_queries(draw, sorted_lists, backend, kind):
    x, y = draw(kind, 30, 6, 1), draw(kind, 70, 6, 2)
    distances, indices = knn(y, 9, queries=x, backend=backend)
    expected, order = sorted_lists(x, y, 9, own=False)
    assert np.array_equal(indices, order) and np.allclose(distances, expected, atol=1e-6)


@pytest.mark.parametrize("quick", [True, False])
def test_each_search_is_proven_or_repeated(monkeypatch, sorted_lists, quick):
    """bfloat16 cannot distinguish these rows: the first search cannot prove its result, but the final one is right."""
    monkeypatch.setattr(proposals, "has_bfloat16", lambda: quick)
    monkeypatch.setattr(proposals, "_BLOCK_BYTES", 1 << 16)
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 24)) + 1e-3 * random.normal(size=(400, 24))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    distances, indices = knn(x, 5, backend="torch")
    expected, order = sorted_lists(x, x, 5, own=True)
    assert np.array_equal(indices, order)
    assert np.allclose(distances, expected, rtol=1e-5)


def test_the_floor_holds(draw):
    """No row outside the candidates is nearer than the floor that a search reports."""
    for kind in KINDS:
        x = torch.from_numpy(draw(kind, 300, 20, 3)) / 4
        squared = torch.cdist(x.double(), x.double()).numpy() ** 2
        for search in (
            proposals.torch_search(x, x, 12, torch.bfloat16, torch.device("cpu")),
            proposals.torch_search(x, x, 12, torch.float32, torch.device("cpu")),
            proposals.mutual_search(x, 12, torch.bfloat16),
            proposals.mutual_search(x, 12, torch.float32),
            proposals._faiss_search(x, x, 12),
        ):
            candidates, floor = search.propose(np.arange(300))
            others = squared.copy()
            np.put_along_axis(others, candidates.astype(np.int64), np.inf, axis=1)
            assert (others.min(axis=1) >= floor - 1e-12).all()


def test_products_are_float32_despite_user_settings():
    before = torch.get_float32_matmul_precision()
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    try:
        torch.set_float32_matmul_precision("medium")
        allowed = torch.backends.mkldnn.matmul.fp32_precision
        with proposals.exact_products():
            product = x @ x
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == allowed
    finally:
        torch.set_float32_matmul_precision(before)
    assert (product - x.double() @ x.double()).abs().max() < 1e-4


def test_products_stay_float32_while_another_thread_searches():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        first, second = proposals.exact_products(), proposals.exact_products()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)  # the first one ends while the second is still running
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        second.__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("backend", ["torch", "ivf"])
def test_autocast_and_the_default_type_change_nothing(monkeypatch, recwarn, quick, backend):
    monkeypatch.setattr(proposals, "has_bfloat16", lambda: quick)
    monkeypatch.setattr(approximate, "_cells_to_probe", lambda gallery, queries, count, centres, owner: len(centres))
    x = torch.randn(1, 24) + 0.1 * torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
    own, asked = knn(x, 5, backend=backend)[1], knn(x[50:], 5, queries=x[:50], backend=backend)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(knn(x, 5, backend=backend)[1], own)
        assert np.array_equal(knn(x[50:], 5, queries=x[:50], backend=backend)[1], asked)
        assert torch.is_autocast_enabled("cpu")
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert np.array_equal(knn(x, 5, backend=backend)[1], own)
    finally:
        torch.set_default_dtype(torch.float32)
    assert not [warning for warning in recwarn if "autocast" in str(warning.message)]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("size", [1e-15, 1e-19, 1e-21, 1e-22, 1e13])
def test_lists_are_exact_at_extreme_scales(monkeypatch, draw, sorted_lists, quick, size):
    """float32 cannot square numbers of this size: canonical distances distinguish rows that products cannot."""
    monkeypatch.setattr(proposals, "has_bfloat16", lambda: quick)
    for width in (3, 64):
        x = draw("gaussian", 120, width, 7) * np.float32(size)
        for backend in ("faiss", "torch"):
            assert np.array_equal(knn(x, 5, backend=backend)[1], sorted_lists(x, x, 5, own=True)[1])


def test_cosine_is_half_the_squared_distance():
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    distances, indices = knn(x, 6, metric="cosine")
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    cosine = (1 - unit @ unit.T).numpy()
    assert np.allclose(distances, np.take_along_axis(cosine, indices, axis=1), atol=1e-6)
    assert np.allclose(distances, np.sort(cosine, axis=1)[:, :6], atol=1e-6)


def test_half_precision_and_arrays_are_taken():
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).half()
    assert np.array_equal(knn(x, 3)[1], knn(x.float().numpy(), 3)[1])


def test_no_rows_and_no_queries():
    distances, indices = knn(torch.zeros(0, 4), 5)
    assert distances.shape == indices.shape == (0, 0)
    assert knn(torch.zeros(3, 4), 2, queries=torch.zeros(0, 4))[1].shape == (0, 2)


def test_bad_input_is_refused():
    x = torch.ones(5, 3)
    x[3, 1] = float("inf")
    with pytest.raises(DataError, match=r"1 of 5 rows hold NaN or infinity \(the first is row 3"):
        knn(x, 2)
    with pytest.raises(DataError, match=r"shape \(N, D\)"):
        knn(torch.ones(5), 2)
    with pytest.raises(DataError, match="features have 3 columns, queries 4"):
        knn(torch.ones(5, 3), 2, queries=torch.ones(5, 4))
    with pytest.raises(DataError, match="all zeros"):
        knn(torch.zeros(5, 3), 2, metric="cosine")
    with pytest.raises(ConfigError, match="auto, faiss, torch, ivf"):
        knn(torch.ones(5, 3), 2, backend="annoy")
    with pytest.raises(ConfigError, match="euclidean, cosine"):
        knn(torch.ones(5, 3), 2, metric="l1")
    with pytest.raises(ConfigError, match="at least 1"):
        knn(torch.ones(5, 3), 0)


@pytest.mark.parametrize(
    "features",
    [
        "rows",
        [["a", "b"]],
        [[1.0], [1.0, 2.0]],
        None,
        np.array([[1, 2]], object),
        torch.ones(4, 3, dtype=torch.complex64),
        torch.eye(4).to_sparse(),
        torch.ones(4, 0),
        torch.full((4, 3), 1e25),
        torch.full((4, 3), float("inf")).half(),
    ],
    ids=str,
)
def test_wrong_features_are_refused(features):
    with pytest.raises(DataError, match="features: "):
        knn(features, 2)


@pytest.mark.parametrize("k", [2.5, "3", None])
def test_k_must_be_an_integer(k):
    with pytest.raises(ConfigError, match="integer"):
        knn(torch.ones(5, 3), k)


def test_arrays_in_any_order_are_taken():
    x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    for view in (x[::-1], x[:, ::-2], np.asfortranarray(x)):
        assert np.array_equal(knn(view, 4)[1], knn(view.copy(), 4)[1])


def test_approximate_search_with_one_full_cell(draw, monkeypatch):
    monkeypatch.setattr(approximate, "_PRODUCTS", 1 << 12)
    x = draw("identical", 700, 16, 0)
    x[::2, 0] += 1
    found, exact = knn(x, 10, backend="ivf"), knn(x, 10)
    assert np.array_equal(found[0], exact[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_lists(draw):
    for kind in KINDS:
        x = torch.from_numpy(draw(kind, 500, 32, 5))
        on_cpu, on_gpu = knn(x, 20), knn(x.cuda(), 20)
        assert np.array_equal(on_cpu[1], on_gpu[1]) and np.array_equal(on_cpu[0], on_gpu[0])


def test_approximate_search_reports_its_recall(draw, caplog):
    x = draw("clustered", 3000, 16, 0)
    with caplog.at_level("INFO", logger="reidx.labels.neighbours.exact"):
        distances, indices = knn(x, 10, backend="ivf")
    exact = knn(x, 10)
    stated = float(caplog.records[0].getMessage().split("recall ")[1].split()[0])
    found = np.mean([np.isin(a, b).mean() for a, b in zip(exact[1], indices, strict=True)])
    assert 0.9 < found <= 1 and abs(found - stated) < 0.05
    assert np.array_equal(indices[:, 0], np.arange(3000)) and (np.diff(distances, axis=1) >= 0).all()
    few = knn(x[:40], 39, backend="ivf")[1]  # lists stay full even if the probed cells hold fewer rows
    assert np.array_equal(np.sort(few), np.sort(knn(x[:40], 39)[1]))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_approximate_search_of_all_cells_is_exact(draw, monkeypatch, kind, threads):
    monkeypatch.setattr(approximate, "_cells_to_probe", lambda gallery, queries, count, centres, owner: len(centres))
    monkeypatch.setattr(proposals, "BLOCK", 200)
    x = draw(kind, 700, 16, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = knn(x, 10, backend="ivf")
        asked = knn(x[100:], 10, queries=x[:100], backend="ivf")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for mine, exact in ((found, knn(x, 10)), (asked, knn(x[100:], 10, queries=x[:100]))):
        assert np.array_equal(mine[1], exact[1]) and np.array_equal(mine[0], exact[0])


def test_fewest_cells_with_enough_neighbours_are_probed(draw):
    x = torch.from_numpy(draw("clustered", 900, 8, 0))
    centres = x[::45].clone()
    owner = ((x[:, None] - centres) ** 2).sum(-1).argmin(1)
    probed = approximate._cells_to_probe(x, x, 10, centres, owner)
    sample = torch.linspace(0, 899, 500).long()
    true = torch.cdist(x[sample], x).argsort(1)[:, :10]
    order = torch.cdist(x[sample], centres).argsort(1)

    def held(cells: int) -> float:
        looked = [set(row.tolist()) for row in order[:, :cells]]
        return float(np.mean([owner[j].item() in cells for row, cells in zip(true, looked, strict=True) for j in row]))

    assert 1 < probed < len(centres)
    assert held(probed) >= approximate.AIM > held(probed - 1)
