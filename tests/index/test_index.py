"""An index finds the rows that a loop over all of them finds, under filters, after changes, and in each kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reidx.index import Filter, Index, Rows, structures
from reidx.index.recall import measure_recall

KINDS = structures.KINDS


def people(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((40, 16))
    x = centres[random.integers(40, size=count)] + 0.5 * random.standard_normal((count, 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def named(count: int, prefix: str = "a") -> Rows:
    numbers = np.arange(count)
    return Rows([f"{prefix}/{n}.jpg" for n in numbers], ids=numbers // 4, cameras=numbers % 5, times=numbers * 10.0)


def by_loop(gallery: np.ndarray, query: np.ndarray, k: int, allowed: set[int] | None = None) -> list[int]:
    order = sorted(range(len(gallery)), key=lambda row: -float(np.dot(gallery[row].astype(np.float64), query)))
    return [row for row in order if allowed is None or row in allowed][:k]


@pytest.fixture(scope="module")
def gallery() -> np.ndarray:
    return people(600)


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest, gallery: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(tmp_path_factory.mktemp("kinds") / request.param, gallery, named(600), request.param, recall=0.99)


def test_exact_search_equals_a_loop(gallery: np.ndarray, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "i", gallery, named(600))
    queries = people(6, seed=1)
    found = index.search(queries, 7)
    for query, rows, similarities in zip(queries, found.rows, found.similarities, strict=True):
        assert rows.tolist() == by_loop(gallery, query, 7)
        assert np.allclose(similarities, gallery[rows] @ query, atol=1e-6)


@pytest.mark.parametrize("where", [Filter([2]), Filter([0, 1, 3, 4]), Filter(after=1000, before=3000), Filter([1], before=200)])
def test_filters_equal_a_loop(index: Index, gallery: np.ndarray, where: Filter) -> None:
    allowed = {
        n for n in range(600) if (not where.cameras or n % 5 in where.cameras) and where.after <= 10.0 * n < where.before
    }  # fmt: skip
    queries, k = people(20, seed=2), 4
    found = index.search(queries, k, where)
    assert set(found.rows.ravel().tolist()) <= allowed
    pairs = zip(queries, found.rows.tolist(), strict=True)
    hits = [len({*rows} & {*by_loop(gallery, query, k, allowed)}) for query, rows in pairs]
    assert sum(hits) >= 0.95 * k * len(queries)


def test_filter_that_leaves_few_gives_fewer_columns(index: Index) -> None:
    found = index.search(people(2, seed=3), 9, Filter([3], after=0, before=140))  # rows 3, 8, 13
    assert found.rows.shape == (2, 3) and set(found.rows[0]) == {3, 8, 13}


def test_recall_is_what_a_loop_measures(index: Index, gallery: np.ndarray) -> None:
    rows = np.sort(np.random.default_rng(0).permutation(600)[200:400])
    hits = 0
    for row in rows:
        found = [other for other in index.search(gallery[row][None], 11).rows[0].tolist() if other != row]
        hits += len({*found[:10]} & {*by_loop(gallery, gallery[row], 10, {*range(600)} - {int(row)})})
    assert index.recall.value == pytest.approx(hits / 2000, abs=1e-9)
    assert index.recall.queries == (0 if index.kind == "exact" else 200)


def test_least_effort_that_reaches_the_aim_is_chosen(gallery: np.ndarray) -> None:
    vectors = structures.create("ivf", gallery)
    low, high = (measure_recall(vectors, "ivf", aim) for aim in (0.3, 0.999))
    assert low.effort < high.effort and low.value < high.value
    assert measure_recall(vectors, "ivf", 1.0).effort <= structures.cells_of(600)


@pytest.mark.parametrize("kind", KINDS)
def test_added_rows_follow_and_are_found(kind: str, gallery: np.ndarray, tmp_path: Path) -> None:
    before = Index.build(tmp_path / "i", gallery[:500], named(500), kind, recall=1.0)
    more = Rows([f"b/{n}.jpg" for n in range(100)], ids=np.full(100, 9))
    after = before.add(gallery[500:], more)
    assert (len(before), len(after)) == (500, 600)
    assert after.rows.paths[500] == "b/0.jpg" and after.rows.cameras is not None and after.rows.cameras[599] == -1
    assert after.search(gallery[550:551], 1).rows[0, 0] == 550
    assert before.search(gallery[:1], 1).rows[0, 0] == 0  # the earlier files stay mapped
    assert np.allclose(Index.open(tmp_path / "i").vectors(range(600)), gallery, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_rows_leave_no_trace(kind: str, gallery: np.ndarray, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "i", gallery, named(600), kind, recall=1.0)
    fewer = index.remove([f"a/{n}.jpg" for n in range(0, 600, 2)])
    assert len(fewer) == 300 and list(fewer.rows.paths)[:2] == ["a/1.jpg", "a/3.jpg"]
    assert np.allclose(fewer.vectors(range(300)), gallery[1::2], atol=1e-6)
    assert fewer.search(gallery[11:12], 1).rows[0, 0] == 5
    files = [path for path in (tmp_path / "i").rglob("*") if path.is_file()]
    assert not any(gallery[2].tobytes() in path.read_bytes() or b"a/2.jpg" in path.read_bytes() for path in files)
    assert any(gallery[1].tobytes() in path.read_bytes() for path in files)  # so the search for bytes can succeed


def test_index_of_one_image_is_searched(tmp_path: Path) -> None:
    for kind in KINDS:
        index = Index.build(tmp_path / kind, people(1), named(1), kind)
        assert index.search(people(1), 1).rows.tolist() == [[0]]


def test_reranking_reorders_only_the_first(index: Index, gallery: np.ndarray) -> None:
    queries = people(8, seed=4)
    plain, reranked = index.search(queries, 60), index.search(queries, 60, rerank=40)
    assert np.array_equal(plain.rows[:, 40:], reranked.rows[:, 40:])
    assert np.array_equal(np.sort(plain.rows[:, :40]), np.sort(reranked.rows[:, :40]))
    assert not np.array_equal(plain.rows, reranked.rows)
    for query, rows, similarities in zip(queries, reranked.rows, reranked.similarities, strict=True):
        assert np.allclose(similarities, gallery[rows] @ query, atol=1e-5)


def test_reranking_equals_that_of_the_evaluation(index: Index) -> None:
    from reidx.evaluation import evaluate, rerank
    from reidx.evaluation.k_reciprocal import KReciprocal

    query = people(1, seed=5)
    first = index.search(query, 50).rows[0]
    candidates = index.vectors(first)
    again = rerank(KReciprocal(), query, candidates)
    ids, others = np.zeros(1, np.int64), np.ones(50, np.int64)
    result = evaluate(query, candidates, ids, others - 1, ids, others, reranking=again, details=True, top=50)
    assert result.details is not None
    assert index.search(query, 50, rerank=50).rows[0].tolist() == first[result.details.top[0]].tolist()
