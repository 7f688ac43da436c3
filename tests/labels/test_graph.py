"""Broken neighbour graphs: every consumer refuses them before it follows an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import (
    bsr_array,
    coo_array,
    csc_array,
    csc_matrix,
    csr_array,
    csr_matrix,
    dia_array,
    lil_array,
)

from reidx.errors import DataError
from reidx.labels import DBSCAN, HDBSCAN, AdaptiveDBSCAN, InfoMap, Jaccard, fuse
from reidx.labels.graph import checked_graph
from reidx.labels.pipeline import LabelPipeline

N = 12
CONSUMERS: dict[str, Callable[[Any], Any]] = {
    "DBSCAN": DBSCAN(0.5, 2),
    "AdaptiveDBSCAN": AdaptiveDBSCAN(0.5, 2),
    "HDBSCAN": HDBSCAN(2),
    "InfoMap": InfoMap(min_size=3),
    "fuse": lambda graph: fuse([graph, graph], [0.5, 0.5]),
    "Jaccard": lambda graph: Jaccard(4, 2)(torch.eye(N), among=graph),
    "pipeline": lambda graph: LabelPipeline("embed", lambda features: graph, DBSCAN(0.5, 2))(
        {"embed": torch.eye(N)}, epoch=0, cameras=np.zeros(N, np.int64)
    ),
}


def groups() -> csr_array:
    """Return three groups of four images at distance 0.1, with each pair stored and columns ascending."""
    near = np.kron(np.eye(3), np.full((4, 4), 0.1, np.float32))
    return csr_array(near.astype(np.float32))


def changed(part: str, place: Any, value: Any, kind: Any = csr_array) -> Callable[[], Any]:
    """Return a function that makes the graph with one number of one array overwritten."""

    def make() -> Any:
        graph = kind(groups())
        getattr(graph, part)[place] = value
        return graph

    return make


def replaced(part: str, change: Callable[[np.ndarray], Any], kind: Any = csr_array) -> Callable[[], Any]:
    """Return a function that makes the graph with one of its arrays replaced."""

    def make() -> Any:
        graph = kind(groups())
        setattr(graph, part, change(getattr(graph, part)))
        return graph

    return make


def of_lists(lists: list[Any]) -> np.ndarray:
    """Return an array of lists, the form of LIL."""
    made = np.empty(len(lists), object)
    made[:] = lists
    return made


BROKEN = {
    "an index too large": (changed("indices", 5, N), "row 1 points to image 12; the 12 images are 0 to 11"),
    "an index far away": (changed("indices", 47, 2**31 - 1), "row 11 points to image 2147483647"),
    "an index below 0": (changed("indices", 0, -1), "row 0 points to image -1"),
    "an index far below 0": (changed("indices", 20, -(2**31)), "row 5 points to image -2147483648"),
    "indices of 64 bits": (
        replaced("indices", lambda i: i.astype(np.int64) + (2**40) * (i == 11)),
        "row 8 points to image 1099511627787",
    ),
    "indices unsigned": (replaced("indices", lambda i: i.astype(np.uint64) - 1), "points to image"),
    "indices of floats": (replaced("indices", lambda i: i + 0.5), "must be integers, not int32 and float64"),
    "rows that fall": (changed("indptr", 4, 3), "indptr must rise from 0; row 3 goes from 12 to 3"),
    "rows far outside": (changed("indptr", 6, 10**9), "indptr must rise"),
    "rows that end outside": (changed("indptr", N, 60), "indptr ends at 60, but there are 48 entries"),
    "rows that begin below 0": (changed("indptr", 0, -4), "indptr must rise from 0; row 0 goes from -4"),
    "rows that begin late": (changed("indptr", 0, 2), "indptr must rise from 0; row 0 goes from 2"),
    "too few rows": (replaced("indptr", lambda i: i[:-2]), r"indptr has shape \(11,\), not \(13,\)"),
    "too many rows": (replaced("indptr", lambda i: np.append(i, i[-1:])), r"indptr has shape \(14,\)"),
    "no rows": (replaced("indptr", lambda i: i[:0]), r"indptr has shape \(0,\)"),
    "fewer indices than distances": (replaced("indices", lambda i: i[:-5]), "differ in length"),
    "fewer distances than indices": (replaced("data", lambda d: d[:7]), "differ in length"),
    "distances of two axes": (replaced("data", lambda d: d[:, None]), "differ in length"),
    "NaN": (changed("data", 9, np.nan), "finite and not negative; that of images 2 and 1 is nan"),
    "infinite": (changed("data", 9, np.inf), "finite and not negative; that of images 2 and 1 is inf"),
    "negative": (changed("data", 9, -1e-3), "finite and not negative; that of images 2 and 1 is -0.001"),
    "negative infinite": (changed("data", 47, -np.inf), "that of images 11 and 11 is -inf"),
    "a pair twice": (changed("indices", 5, 0), "the pair of images 1 and 0 is stored twice"),
    "integers": (lambda: csr_array(groups().astype(np.int64)), "must be floats, not int64"),
    "complex": (lambda: csr_array(groups().astype(np.complex64)), "must be floats, not complex64"),
    "truth values": (lambda: csr_array(groups() > 0), "must be floats, not bool"),
    "not square": (lambda: groups()[:5], r"expected shape \(N, N\), got \(5, 12\)"),
    "dense": (lambda: groups().toarray(), "expected a sparse matrix, got ndarray"),
    "a list": (lambda: [[0, 1]], "expected a sparse matrix, got list"),
    "none": (lambda: None, "expected a sparse matrix, got NoneType"),
    "csr_matrix": (changed("indices", 5, N, csr_matrix), "row 1 points to image 12"),
    "columns that fall": (changed("indptr", 4, 3, csc_array), "indptr must rise"),
    "csc, an index too large": (changed("indices", 5, 10**6, csc_matrix), "points to image 1000000"),
    "coo, a row too large": (changed("row", 5, N, coo_array), "row numbers go from 0 to 12"),
    "coo, a column below 0": (changed("col", 5, -1, coo_array), "column numbers go from -1 to 11"),
    "coo, a pair twice": (changed("col", 5, 0, coo_array), "1 entries are of pairs that are stored already"),
    "coo, distances missing": (replaced("data", lambda d: d[:-1], coo_array), "48.* row numbers for 47 distances"),
    "blocks outside": (changed("indices", 0, 40, lambda g: bsr_array(g, blocksize=(4, 4))), "block columns"),
    "blocks that fall": (changed("indptr", 1, 9, lambda g: bsr_array(g, blocksize=(4, 4))), "indptr must rise"),
    "lists, an index too large": (
        replaced("rows", lambda r: of_lists([[0, 1, 2, 99], *r[1:]]), lil_array), "row 0 points to image 99"
    ),
    "lists of two lengths": (replaced("rows", lambda r: of_lists([[0], *r[1:]]), lil_array), "differ in length"),
    "lists missing": (replaced("rows", lambda r: r[:-1], lil_array), "differ in length"),
}


@pytest.mark.parametrize("taker", CONSUMERS)
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_graph_is_refused_by_every_consumer(kind: str, taker: str) -> None:
    make, message = BROKEN[kind]
    graph = make()
    if taker == "fuse" and not hasattr(graph, "shape"):
        pytest.skip("fuse compares the shapes of its graphs first")
    if taker == "Jaccard" and (graph is None or getattr(graph, "shape", None) != (N, N)):
        pytest.skip("Jaccard compares the number of images first")
    with pytest.raises(DataError, match=message) as error:
        CONSUMERS[taker](graph)
    if taker == "pipeline":
        assert "the graph by the distance" in str(error.value) and __name__.split(".")[-1] in str(error.value)


def test_graph_of_wrong_size_names_its_distance() -> None:
    class Short:
        def __call__(self, features: torch.Tensor) -> csr_array:
            return groups()

    pipeline = LabelPipeline("embed", Short(), DBSCAN(0.5, 2))
    with pytest.raises(DataError, match=r"Short \(module .*test_graph\): it is of 12 images, but there are 13"):
        pipeline({"embed": torch.eye(13)}, epoch=0, cameras=np.zeros(13, np.int64))


@pytest.mark.parametrize("threads", [1, 3])
def test_first_wrong_entry_is_named_across_threads(threads: int) -> None:
    graph = groups()
    graph.indices[[11, 40]] = 99
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(DataError, match="row 2 points to image 99"):
            checked_graph(graph)
    finally:
        torch.set_num_threads(before)


def test_sound_graph_is_not_copied() -> None:
    graph = groups()
    assert checked_graph(graph, N) is graph
    assert checked_graph(csr_array((0, 0), dtype=np.float32)).shape == (0, 0)
    assert checked_graph(csr_array((3, 3), dtype=np.float32)).nnz == 0


@pytest.mark.parametrize("taker", ["DBSCAN", "HDBSCAN", "pipeline"])
@pytest.mark.parametrize(
    "change",
    [
        csr_matrix,
        csc_array,
        coo_array,
        lil_array,
        dia_array,
        lambda graph: bsr_array(graph, blocksize=(2, 2)),
        lambda graph: graph.todok(),
        lambda graph: graph.astype(np.float64),
        replaced("data", lambda d: d.astype(">f4")),
        lambda graph: graph.astype(np.longdouble),
        replaced("indices", lambda i: i.astype(np.int64)),
        replaced("indptr", lambda i: i.astype(np.uint16)),
        replaced("data", lambda d: d.astype(np.float16)),
        replaced("data", lambda d: np.repeat(d, 2)[::2]),
    ],
    ids=lambda change: getattr(change, "__name__", str(change)),
)
def test_other_formats_and_types_are_taken(taker: str, change: Any) -> None:
    graph = change() if change.__name__ == "make" else change(groups())
    labels = CONSUMERS[taker](graph)
    labels = getattr(labels, "labels", labels)
    expected = np.repeat([0, 1, 2], 4)
    assert np.array_equal(labels[:, None] == labels, expected[:, None] == expected)
    # the given graph does not change
    again = change() if change.__name__ == "make" else change(groups())
    assert abs(again - graph).tocsr().max() == 0


def test_unsorted_columns_are_taken_despite_sorted_flag() -> None:
    graph = groups()
    assert graph.has_sorted_indices
    for row in range(N):
        part = slice(graph.indptr[row], graph.indptr[row + 1])
        graph.indices[part] = graph.indices[part][::-1].copy()
    taken = checked_graph(graph)
    assert not taken.has_sorted_indices and graph.has_sorted_indices
    assert set(HDBSCAN(2)(graph)) == {0, 1, 2}
