"""Exact k nearest neighbours of each row: fast candidates, canonical distances, and a proof for each row.

A matrix product in bfloat16 or float32 proposes slightly more than k candidates for a row. Their canonical distances are
summed in float64, in a fixed order, rounded to float32 and sorted by (distance, index). Because the rounding error of the
product is bounded, no row that was not proposed is nearer than a known floor. If the k-th neighbour is nearer than the
floor, the row is proven; otherwise it goes to the next, more precise search. The last search compares with every row. The
result therefore does not depend on backend, device, block size or number of processes, even with equal rows.

Cost: 2·Q·N·D operations for the products (half as many if all rows are queries on a CPU) and Q·(k + margin)·D for the
canonical distances; memory: one block of products, or, if all rows are queries on a CPU, 2·(k + margin) candidates per row.
"""

from __future__ import annotations

import logging
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels.compiled import compiled, in_threads, side_by_side, squared_distance
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.candidates import Search, exact_products, searches
from reidx.labels.neighbours.clumps import clumps, too_close
from reidx.labels.neighbours.duplicates import expand_lists, group_equal_rows
from reidx.profiling import span

METRICS = ("euclidean", "cosine")
_FEW = 32  # unproven rows that are compared with all rows at once; more are first searched in balls
_LEAST = 0.7  # minimum recall of an approximate search
_log = logging.getLogger(__name__)


def knn(
    features: Tensor | np.ndarray,
    k: int,
    *,
    queries: Tensor | np.ndarray | None = None,
    metric: str = "euclidean",
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances (Q, k) float32 and indices (Q, k) int64 of the k nearest rows of `features`, nearest first.

    Without `queries` each row of `features` (N, D) is a query and its own first neighbour, even if other rows equal it.
    Equal distances are ordered by index. With fewer than k rows there are N columns. `metric` is "euclidean"
    (not squared) or "cosine" (1 - cosine, 0 to 2). `backend` proposes the candidates: "faiss", "torch", or "auto", which is
    torch except for `queries` on a processor without bfloat16 units; it changes the time, never the result.
    Only "ivf" is approximate, for a million rows: see `reidx.labels.neighbours.approximate`. `device` is the device of the
    search, by default that of the features; faiss searches on a CUDA device if it is built for it.

    Raises DataError for features that are not finite, not (N, D), or not of the queries' width.
    """
    if metric not in METRICS:
        raise ConfigError(f"knn: unknown metric {metric!r}; choose one of {', '.join(METRICS)}.")
    if not isinstance(k, Integral) or k < 1:
        raise ConfigError(f"knn: k is {k!r}; it must be an integer of at least 1.")
    gallery = checked(features)
    wanted = None if queries is None else checked(queries, "queries")
    if metric == "cosine":
        gallery = unit(gallery)
        wanted = None if wanted is None else unit(wanted, "queries")
    squared, indices = nearest(gallery, k, queries=wanted, backend=backend, device=device)
    distances = squared / 2 if metric == "cosine" else np.sqrt(squared)
    return distances.astype(np.float32), indices.astype(np.int64)


@span("neighbours")
def nearest(
    gallery: Tensor,
    k: int,
    *,
    queries: Tensor | None = None,
    backend: str = "auto",
    device: str | torch.device | None = None,
    rows: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """Return squared distances float32 and indices int32 as `knn` defines them, for the queries in `rows` only.

    The inputs must have passed `checked`.
    """
    if queries is not None and queries.shape[1] != gallery.shape[1]:
        raise DataError(f"knn: features have {gallery.shape[1]} columns, queries {queries.shape[1]}.")
    features = gallery.cpu().numpy()
    query_rows = range(len(gallery) if queries is None else len(queries))[rows]
    several = group_equal_rows(features)
    if several is None:
        return _nearest_of_distinct(gallery, k, queries, backend, device, query_rows)
    apart = gallery[torch.from_numpy(several.first).to(gallery.device)]
    numbers = np.arange(query_rows.start, query_rows.stop)
    if queries is not None:
        squared, lists = _nearest_of_distinct(apart, k, queries, backend, device, query_rows)
        return expand_lists(several, squared, lists, min(k, len(features)), np.arange(len(numbers)), None)
    in_ball, which = np.unique(several.kind[numbers], return_inverse=True)
    some = None if len(in_ball) == len(apart) else apart[torch.from_numpy(in_ball).to(apart.device)]
    squared, lists = _nearest_of_distinct(apart, k, some, backend, device, range(len(in_ball)))
    return expand_lists(several, squared, lists, min(k, len(features)), which.reshape(-1), numbers)


def _nearest_of_distinct(
    gallery: Tensor, k: int, queries: Tensor | None, backend: str, device: str | torch.device | None, query_rows: range
) -> tuple[np.ndarray, np.ndarray]:
    """Search as `nearest` does, in a gallery without large groups of equal rows."""
    place = torch.device(device) if device is not None else gallery.device
    k = min(k, len(gallery))
    squared = np.full((len(query_rows), k), np.inf, np.float32)
    indices = np.empty((len(query_rows), k), np.int32)
    if k == 0 or not len(query_rows):
        return squared, indices

    features = gallery.cpu().numpy()
    query_bank = features if queries is None else queries.cpu().numpy()
    open_rows, close = np.arange(query_rows.start, query_rows.stop), np.empty(0, np.int64)
    threads = torch.get_num_threads() if place.type == "cpu" else 1
    all_rows = queries is None and len(query_rows) == len(gallery)

    def settle(start: int, stop: int, search: Search, rows: np.ndarray, proven: np.ndarray) -> None:
        block = max(64, search.block // threads)
        for first in range(start, stop, block):
            part = slice(first, min(first + block, stop))
            _settle(
                rows[part], *search.propose(rows[part]), query_bank, features, queries is None, query_rows.start,
                squared, indices, proven[part],
            )  # fmt: skip

    def unsettled(search: Search, rows: np.ndarray) -> np.ndarray:
        proven = np.empty(len(rows), np.bool_)
        side_by_side(settle, threads, len(rows), search, rows, proven)
        return rows[~proven]

    with exact_products():
        for search in searches(gallery, gallery if queries is None else queries, k, backend, place, all_rows):
            open_rows = unsettled(search, open_rows)
            near = squared[open_rows - query_rows.start, -1] < too_close(features)
            close, open_rows = np.concatenate([close, open_rows[near]]), open_rows[~near]
            if not len(open_rows):
                break
        open_rows = np.concatenate([open_rows, close])
        if len(open_rows) > _FEW:
            within = squared[open_rows - query_rows.start, -1]
            balls = clumps(features, None if queries is None else query_bank, k, open_rows, within)
            open_rows = np.concatenate([unsettled(search, rows) for rows, search in balls])
    in_threads(
        _compare_with_all, len(open_rows), open_rows, query_bank, features, queries is None, query_rows.start, squared, indices,
        chunks_per_thread=16,
    )  # fmt: skip
    if backend == "ivf":
        sample = np.linspace(0, len(query_rows) - 1, min(200, len(query_rows))).astype(np.int64)
        true = nearest(gallery, k, queries=torch.from_numpy(query_bank[sample + query_rows.start]))[0][:, -1:]
        found = float((squared[sample] <= true).mean())
        _log.info("approximate neighbours: recall %.4f at %d, measured on %d rows", found, k, len(sample))
        if found < _LEAST:
            raise DataError(
                f"knn: the approximate search (backend ivf) found {found:.0%} of the {k} nearest rows: features are too close "
                "together for it. Use backend auto, which is exact; the network may have collapsed."
            )
    return squared, indices


@compiled
def _insert(distance, index, squared, indices, filled):  # type: ignore[no-untyped-def]
    """Insert an entry into a row sorted by (distance, index); returns the number of filled places."""
    k = squared.shape[0]
    place = filled
    while place > 0 and (
        squared[place - 1] > distance or (squared[place - 1] == distance and indices[place - 1] > index)
    ):
        if place < k:
            squared[place] = squared[place - 1]
            indices[place] = indices[place - 1]
        place -= 1
    if place < k:
        squared[place] = distance
        indices[place] = index
    return min(filled + 1, k)


@compiled
def _settle(rows, candidates, floor, x, y, own, offset, squared, indices, proven):  # type: ignore[no-untyped-def]
    """Sort the candidates of each row by canonical distance; mark it as proven if no other row can be among the first k."""
    k = squared.shape[1]
    best, where = np.empty(k, np.float32), np.empty(k, np.int64)
    for r in range(len(rows)):
        i = rows[r]
        filled = 0
        if own:  # before the rows that equal it
            best[0], where[0], filled = -1.0, i, 1
        for c in range(candidates.shape[1]):
            j = candidates[r, c]
            if j >= 0 and not (own and j == i):
                filled = _insert(squared_distance(x[i], y[j]), j, best, where, filled)
        proven[r] = filled == k and best[k - 1] < np.float32(floor[r])
        for a in range(filled):
            squared[i - offset, a] = max(best[a], 0.0)
            indices[i - offset, a] = where[a]


@compiled
def _compare_with_all(start, stop, rows, x, y, own, offset, squared, indices):  # type: ignore[no-untyped-def]
    k = squared.shape[1]
    best, where = np.empty(k, np.float32), np.empty(k, np.int64)
    for r in range(start, stop):
        i = rows[r]
        filled = 0
        if own:
            best[0], where[0], filled = -1.0, i, 1
        for j in range(y.shape[0]):
            if not (own and j == i):
                filled = _insert(squared_distance(x[i], y[j]), j, best, where, filled)
        for a in range(k):
            squared[i - offset, a] = max(best[a], 0.0)
            indices[i - offset, a] = where[a]
