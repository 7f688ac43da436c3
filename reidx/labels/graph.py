"""The neighbour graph: the distances of near pairs, as a sparse matrix (N, N).

A stored entry is the distance of that pair, zeros and the diagonal included; a pair that is not stored is at distance
1 or more. So a graph may be cut at any distance below 1 without changing what a clusterer sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse

from reidx.errors import ConfigError, DataError
from reidx.labels.compiled import compiled, in_threads
from reidx.machine.free_memory import free_memory


def refuse_beyond(needed: float, what: str) -> None:
    """Raise :class:`DataError` if ``what``, computed from a graph, needs more bytes than are free."""
    free = free_memory()
    if needed > free:
        raise DataError(
            f"{what} would take {needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free. Where nearly every image is "
            "near every other, the network may have collapsed: lower its learning rate, or start from better weights; else let "
            "the distance keep fewer pairs (a smaller k or k1)."
        )


def checked_graph(graph: Any, images: int | None = None, name: str = "neighbour graph") -> csr_array:
    """Return the graph as CSR, uncopied if it is: sparse (N, N), floats of 32 or 64 bits, each pair stored at most once.

    The compiled loops that follow do not check bounds, so every index is validated here, in one pass over the entries.
    `images` is the expected N; `name` identifies the graph in messages. Raises DataError for any other graph, and for
    distances that are negative, infinite or NaN.
    """
    if not issparse(graph):
        raise DataError(
            f"{name}: expected a sparse matrix, got {type(graph).__name__}. In a dense one a distance of 0 "
            "cannot be distinguished from a pair that is not stored: build a csr_array from its (data, (rows, columns))."
        )
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1]:
        raise DataError(f"{name}: expected shape (N, N), got {graph.shape}.")
    if images is not None and graph.shape[0] != images:
        raise DataError(f"{name}: it is of {graph.shape[0]:,} images, but there are {images:,}.")
    if graph.dtype.kind != "f":
        raise DataError(f"{name}: distances must be floats, not {graph.dtype}.")
    rows = graph if graph.format == "csr" else _as_rows(graph, name)
    indptr, indices, data = _well_formed(rows.indptr, rows.indices, rows.data, graph.shape[0], name)
    ascending = _entries(indptr, indices, data, name)
    given = all(mine is its for mine, its in ((indptr, rows.indptr), (indices, rows.indices), (data, rows.data)))
    if given and ascending and isinstance(rows, csr_array):
        return rows
    return csr_array((data, indices, indptr), shape=graph.shape)  # drops scipy's flags about the order


def _as_rows(graph: Any, name: str) -> csr_array:
    """Convert a graph of another format to CSR; its indices are validated first, because scipy trusts them."""
    n = graph.shape[0]
    if graph.format == "csc":
        _entries(*_well_formed(graph.indptr, graph.indices, graph.data, n, name), name)
    elif graph.format == "bsr":
        _blocks(graph, name)
    elif graph.format == "coo":
        _coordinates(graph, name)
    elif graph.format == "lil" and [len(row) for row in graph.rows] != [len(row) for row in graph.data]:
        raise DataError(f"{name}: the lists of columns and of distances differ in length.")
    try:
        rows = graph.tocsr()
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise DataError(f"{name}: {graph.format} arrays that do not fit together: {error}.") from error
    if graph.format == "coo" and rows.nnz != len(graph.data):
        raise DataError(f"{name}: {len(graph.data) - rows.nnz:,} entries are of pairs that are stored already.")
    return rows


def _blocks(graph: Any, name: str) -> None:
    """Raise DataError unless the blocks of a BSR array lie inside it and are complete."""
    shape = np.shape(graph.data)
    if len(shape) != 3 or 0 in shape[1:] or graph.shape[0] % shape[1] or graph.shape[1] % shape[2]:
        raise DataError(f"{name}: blocks of shape {shape} do not tile {graph.shape}.")
    across = graph.shape[1] // shape[2]
    indptr, indices, _ = _well_formed(
        graph.indptr, graph.indices, np.zeros(shape[0], np.float32), graph.shape[0] // shape[1], name
    )
    held = indices[: indptr[-1]]
    if len(held) and (held.min() < 0 or held.max() >= across):
        raise DataError(f"{name}: block columns go from {held.min()} to {held.max()}; there are {across}.")


def _coordinates(graph: Any, name: str) -> None:
    """Raise DataError unless the places of a COO array lie inside it, one for each distance."""
    n = graph.shape[0]
    for axis, places in zip(("row", "column"), (graph.row, graph.col), strict=True):
        if np.ndim(places) != 1 or len(places) != len(graph.data):
            raise DataError(f"{name}: {np.shape(places)} {axis} numbers for {len(graph.data)} distances.")
        if places.dtype.kind not in "iu":
            raise DataError(f"{name}: {axis} numbers must be integers, not {places.dtype}.")
        if len(places) and (places.min() < 0 or places.max() >= n):
            raise DataError(
                f"{name}: {axis} numbers go from {places.min()} to {places.max()}; the {n:,} images are 0 to {n - 1}."
            )


def _well_formed(
    indptr: Any, indices: Any, data: Any, rows: int, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the three arrays in the types of the compiled loops; raises DataError unless `indptr` splits them into rows."""
    indptr, indices, data = np.asarray(indptr), np.asarray(indices), np.asarray(data)
    if indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        raise DataError(f"{name}: indptr and indices must be integers, not {indptr.dtype} and {indices.dtype}.")
    if indptr.shape != (rows + 1,):
        raise DataError(f"{name}: indptr has shape {indptr.shape}, not ({rows + 1},) for {rows:,} rows.")
    if indices.ndim != 1 or indices.shape != data.shape:
        raise DataError(f"{name}: indices {indices.shape} and distances {data.shape} differ in length.")
    lengths = np.diff(indptr.astype(np.int64, copy=False))
    if indptr[0] != 0 or (lengths < 0).any():
        row = int(np.argmax(lengths < 0)) if indptr[0] == 0 else 0
        raise DataError(f"{name}: indptr must rise from 0; row {row} goes from {indptr[row]} to {indptr[row + 1]}.")
    if indptr[-1] > len(indices):
        raise DataError(f"{name}: indptr ends at {indptr[-1]:,}, but there are {len(indices):,} entries.")
    wide = np.int32 if indptr.dtype == indices.dtype == np.int32 else np.int64
    exact = data.dtype if data.dtype in (np.float32, np.float64) else np.float32 if data.itemsize < 4 else np.float64
    return indptr.astype(wide, copy=False), indices.astype(wide, copy=False), data.astype(exact, copy=False)


def _entries(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, name: str) -> bool:
    """Return True if columns ascend in each row; raises DataError for the first invalid entry."""
    n = len(indptr) - 1
    found = in_threads(_first_fault, n, indptr, indices, data, chunks_per_thread=1)
    fault = next((fault for fault, _ in found if fault >= 0), -1)
    if fault < 0:
        return all(ascending for _, ascending in found)
    row, column = int(np.searchsorted(indptr, fault, side="right")) - 1, int(indices[fault])
    if not 0 <= column < n:
        raise DataError(f"{name}: row {row} points to image {column}; the {n:,} images are 0 to {n - 1}.")
    if not 0 <= data[fault] < np.inf:
        raise DataError(
            f"{name}: distances must be finite and not negative; that of images {row} and {column} is {data[fault]}."
        )
    raise DataError(f"{name}: the pair of images {row} and {column} is stored twice.")


@compiled
def _first_fault(start, stop, indptr, indices, data):  # type: ignore[no-untyped-def]
    """Find the position of the first invalid entry, or -1, and whether all columns before it ascend."""
    n = len(indptr) - 1
    seen = np.full(n, -1, np.int64)
    ascending = True
    for i in range(start, stop):
        before = -1
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            if j < 0 or j >= n or not data[p] >= 0 or data[p] == np.inf or seen[j] == i:
                return p, ascending
            seen[j] = i
            ascending &= j > before
            before = j
    return -1, ascending


def fuse(graphs: Sequence[csr_array], weights: Sequence[float]) -> csr_array:
    """The weighted sum of the distances of several graphs of the same images, sparse: absent pairs count as 1.

    The weights must not be negative and must sum to 1, so that a pair absent everywhere stays at distance 1.
    Combines the views of an image. Each graph is read once; peak memory is the running sum and one graph.
    """
    if len(graphs) != len(weights) or not graphs:
        raise ConfigError(f"fuse: {len(graphs)} graphs but {len(weights)} weights.")
    if min(weights) < 0 or not abs(sum(weights) - 1) <= 1e-6:
        raise ConfigError(f"fuse: weights must be >= 0 and sum to 1, got {list(weights)}.")
    if len({graph.shape for graph in graphs}) > 1:
        raise DataError(f"fuse: the graphs are of different images: shapes {[graph.shape for graph in graphs]}.")
    total: csr_array | None = None
    for given, weight in zip(graphs, weights, strict=True):
        if weight == 0:
            continue
        graph = checked_graph(given, name="fuse")
        nearness = csr_array(
            (np.float32(weight) * (1 - graph.data), graph.indices, graph.indptr), shape=graph.shape
        )
        total = nearness if total is None else total + nearness
    assert total is not None
    total.data = np.maximum(1 - total.data, 0)
    return total
