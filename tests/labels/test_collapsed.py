"""Features that have collapsed, wholly or in part: exact lists without a comparison of all pairs, labels or a refusal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from reidx.labels import candidates, duplicates, knn, neighbours
from reidx.labels.duplicates import kinds

N, D, K = 600, 64, 12


def _clump(random: np.random.Generator, n: int, noise: float) -> np.ndarray:
    return random.normal(size=(1, D)) / 8 + noise * random.normal(size=(n, D)) / 8


def _few_rows(random: np.random.Generator) -> np.ndarray:
    return (random.normal(size=(7, D)) / 8)[random.integers(0, 7, N)]


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "identical": lambda r: np.repeat(r.normal(size=(1, D)), N, axis=0),
    "copies of a few": _few_rows,
    "copies of a few, and others": lambda r: np.concatenate([_few_rows(r)[: N // 2], r.normal(size=(N // 2, D)) / 8]),
    "one clump": lambda r: _clump(r, N, 1e-4),
    "one clump, hardly apart": lambda r: _clump(r, N, 1e-7),
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


def test_lists_of_a_share_of_the_rows_are_those_of_all(collapsed):
    bank = torch.from_numpy(collapsed)
    squared, indices = neighbours.nearest(bank, K)
    for rows in (slice(0, 201), slice(201, N), slice(7, 7)):
        part = neighbours.nearest(bank, K, rows=rows)
        assert np.array_equal(part[0], squared[rows]) and np.array_equal(part[1], indices[rows])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a line"])
def test_next_to_no_row_is_compared_with_all(monkeypatch, kind):
    random = np.random.default_rng(0)
    x = random.permutation(KINDS[kind](random).astype(np.float32))
    compared = []
    monkeypatch.setattr(neighbours, "in_threads", lambda kernel, rows, *rest, **options: compared.append(rows))
    knn(x, K)
    assert compared and max(compared) <= N // 20


def test_more_neighbours_than_kinds_of_rows_are_filled_up_by_number():
    x = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)[np.random.default_rng(0).permutation(120)]
    indices = knn(x, 100)[1]
    for i in range(120):
        squared = ((x - x[i]) ** 2).sum(1)
        squared[i] = -1
        assert indices[i].tolist() == np.argsort(squared, kind="stable")[:100].tolist()
    assert knn(x, 500)[1].shape == (120, 120)


def test_kinds_are_numbered_by_their_first_rows(monkeypatch):
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)[np.arange(100) * 7 % 5]
    found = kinds(x)
    assert found is not None
    assert found.kind.tolist() == [i % 5 for i in range(100)] and found.first.tolist() == [0, 1, 2, 3, 4]
    assert found.starts.tolist() == [0, 20, 40, 60, 80, 100]
    assert found.members.reshape(5, 20).tolist() == [list(range(kind, 100, 5)) for kind in range(5)]
    assert kinds(x[:40]) is None and kinds(x[:0]) is None  # no more than a few of one kind
    clash = lambda start, stop, bits, factors, hashes: hashes.__setitem__(slice(start, stop), 0)  # noqa: E731
    monkeypatch.setattr(duplicates, "_hash", clash)
    again = kinds(x)
    assert again is not None and all(np.array_equal(mine, its) for mine, its in zip(found, again, strict=True))
