"""The k nearest neighbours of each row, exact: quick candidates, canonical distances, and a proof for each row.

A matrix product in bfloat16 or float32 proposes a few more than k candidates for a row. Their distances are then
summed again in float64, in one fixed order, rounded to float32 and sorted by (distance, index). The rounding error of
the product is bounded, so no row that was not proposed is nearer than a known floor; where the k-th neighbour lies
below that floor the row is proven, otherwise it goes to the next, more precise search. The last search compares with
every row. The result is therefore the same on each backend, device, block size and number of processes, equal rows
included.

Cost: 2·Q·N·D operations in the product and Q·(k + margin)·D in the second look; memory one block of products.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels.approximate import ivf
from reidx.labels.compiled import compiled, faiss_threads, has_faiss, in_threads, squared_distance
from reidx.labels.features import checked, unit

BACKENDS = ("auto", "faiss", "torch", "ivf")
METRICS = ("euclidean", "cosine")
_log = logging.getLogger(__name__)
_BLOCK_BYTES = 24 << 20
_ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


def knn(
    features: Tensor | np.ndarray,
    k: int,
    *,
    queries: Tensor | np.ndarray | None = None,
    metric: str = "euclidean",
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (Q, k) float32 and indices (Q, k) int64 of the k nearest rows of `features`, nearest first.

    Without `queries` each row of `features` (N, D) asks, and is its own first neighbour even where other rows equal it.
    Equal distances are ordered by index. With fewer than k rows there are N columns. `metric` is "euclidean"
    (not squared) or "cosine" (1 - cosine, 0 to 2). `backend` proposes the candidates: "faiss" or "torch", "auto" takes
    torch on CUDA and on processors with bfloat16 units and faiss elsewhere; it changes the time, never the result.
    Only "ivf" is approximate, for banks of a million: see `reidx.labels.approximate`. `device` says where torch
    searches; by default where the features are.

    Raises DataError for features that are not finite, not (N, D), or of other width than the queries.
    """
    if metric not in METRICS:
        raise ConfigError(f"knn: unknown metric {metric!r}; choose one of {', '.join(METRICS)}.")
    if k < 1:
        raise ConfigError(f"knn: k is {k}; it must be at least 1.")
    gallery = checked(features)
    asking = None if queries is None else checked(queries, "queries")
    if metric == "cosine":
        gallery = unit(gallery)
        asking = None if asking is None else unit(asking, "queries")
    squared, indices = nearest(gallery, k, queries=asking, backend=backend, device=device)
    distances = squared / 2 if metric == "cosine" else np.sqrt(squared)
    return distances.astype(np.float32), indices.astype(np.int64)


def nearest(
    gallery: Tensor,
    k: int,
    *,
    queries: Tensor | None = None,
    backend: str = "auto",
    device: str | torch.device | None = None,
    rows: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances float32 and indices int32 as `knn` defines them, for the queries in `rows` only.

    The input has been `checked`.
    """
    if queries is not None and queries.shape[1] != gallery.shape[1]:
        raise DataError(f"knn: features have {gallery.shape[1]} columns, queries {queries.shape[1]}.")
    place = torch.device(device) if device is not None else gallery.device
    asking = range(len(gallery) if queries is None else len(queries))[rows]
    k = min(k, len(gallery))
    squared = np.empty((len(asking), k), np.float32)
    indices = np.empty((len(asking), k), np.int32)
    if k == 0 or not len(asking):
        return squared, indices

    bank = gallery.cpu().numpy()
    query_bank = bank if queries is None else queries.cpu().numpy()
    open_rows = np.arange(asking.start, asking.stop)
    searches = _searches(gallery, gallery if queries is None else queries, k, backend, place)
    for search in searches:
        block = search.block
        unproven = []
        for start in range(0, len(open_rows), block):
            chosen = open_rows[start : start + block]
            candidates, floor = search.propose(chosen)
            proven = np.empty(len(chosen), np.bool_)
            in_threads(
                _settle, len(chosen), chosen, candidates, floor, query_bank, bank, queries is None, asking.start,
                squared, indices, proven,
            )  # fmt: skip
            unproven.append(chosen[~proven])
        open_rows = np.concatenate(unproven)
        if not len(open_rows):
            break
    in_threads(
        _compare_with_all, len(open_rows), open_rows, query_bank, bank, queries is None, asking.start, squared, indices,
        chunks_per_thread=16,
    )  # fmt: skip
    if backend == "ivf":
        sample = np.linspace(0, len(asking) - 1, min(200, len(asking))).astype(np.int64)
        true = nearest(gallery, k, queries=torch.from_numpy(query_bank[sample + asking.start]))[1]
        share = np.mean([np.isin(t, found).mean() for t, found in zip(true, indices[sample], strict=True)])
        _log.info("approximate neighbours: recall %.4f at %d, measured on %d rows", share, k, len(sample))
    return squared, indices


class Search(NamedTuple):
    """A way to propose candidates: for query rows, indices (B, C) and the least squared distance of any other row."""

    block: int
    propose: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _searches(gallery: Tensor, queries: Tensor, k: int, backend: str, place: torch.device) -> list[Search]:
    if backend not in BACKENDS:
        raise ConfigError(f"knn: unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
    if backend in ("faiss", "ivf") and place.type != "cpu":
        raise ConfigError(
            f"knn: backend {backend} searches on the CPU, but the device is {place}; use torch or auto."
        )
    if backend == "auto":
        backend = "torch" if place.type != "cpu" or _has_bfloat16() or not has_faiss() else "faiss"
    if backend == "ivf":
        return [Search(16384, ivf(gallery.numpy(), queries.numpy(), k + 8))]
    if backend == "faiss":
        return [_faiss_search(gallery, queries, k + 8)]
    full = _torch_search(gallery, queries, k + 8, torch.float32, place)
    if place.type != "cpu" or not _has_bfloat16():
        return [full]
    return [_torch_search(gallery, queries, k + 16, torch.bfloat16, place), full]


def _has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("amx_tile"))


def _torch_search(
    gallery: Tensor, queries: Tensor, count: int, dtype: torch.dtype, place: torch.device
) -> Search:
    """Candidates by the largest x·y - |y|²/2; the second term is left out where all rows are equally long."""
    count = min(count, len(gallery))
    y, (y_norm, y_lost) = gallery.to(place, dtype), _lengths(gallery, dtype)
    x, (x_norm, x_lost) = (
        (y, (y_norm, y_lost)) if queries is gallery else (queries.to(place, dtype), _lengths(queries, dtype))
    )
    half = y_norm**2 / 2
    equally_long = float(half.max() - half.min()) <= 1e-5 * float(half.max())
    penalty = None if equally_long else torch.from_numpy(half).to(place, torch.float32)
    tile = min(len(gallery), 1 << 15)
    budget = _BLOCK_BYTES if place.type == "cpu" else 16 * _BLOCK_BYTES

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        block = x[torch.from_numpy(rows).to(place)]
        best, where = None, None
        for start in range(0, len(gallery), tile):
            scores = block @ y[start : start + tile].T
            if penalty is not None:
                scores = scores.float() - penalty[start : start + tile]
            top, columns = scores.topk(min(count, scores.shape[1]), dim=1, sorted=False)
            columns += start
            if best is not None and where is not None:
                top, keep = torch.cat([best, top], dim=1).topk(
                    min(count, best.shape[1] + top.shape[1]), dim=1, sorted=False
                )
                columns = torch.cat([where, columns], dim=1).gather(1, keep)
            best, where = top, columns
        assert best is not None and where is not None
        worst = best.amin(dim=1).double().cpu().numpy()
        norm, longest = x_norm[rows], y_norm.max()
        error = (
            x_lost[rows] * longest + (norm + x_lost[rows]) * y_lost.max()
        )  # of storing x and y in fewer bits
        # of the sum, and of the lengths themselves, float32 all
        error += 2 * (x.shape[1] + 8) * _ROUNDING[torch.float32] * (norm + x_lost[rows] + longest) ** 2
        # of writing the product down in `dtype`; with a penalty what was written is x·y, not the score
        error += _ROUNDING[dtype] * (np.abs(worst) if penalty is None else norm * longest)
        shortest = 2 * half.min() if penalty is None else 0.0
        floor = (
            norm**2 + shortest - 2 * (worst + error) if count < len(gallery) else np.full(len(rows), np.inf)
        )
        return where.to(torch.int32).cpu().numpy(), floor

    return Search(max(64, budget // (tile * (dtype if penalty is None else torch.float32).itemsize)), propose)


def _faiss_search(gallery: Tensor, queries: Tensor, count: int) -> Search:
    if not has_faiss():
        raise ConfigError(
            "knn: backend faiss is not installed (pip install faiss-cpu); backend torch needs nothing."
        )
    import faiss

    count = min(count, len(gallery))
    y, x = gallery.cpu().numpy(), queries.cpu().numpy()
    (y_norm, _), (x_norm, _) = _lengths(gallery, torch.float32), _lengths(queries, torch.float32)

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with faiss_threads():
            distances, candidates = faiss.knn(x[rows], y, count)
        error = 2 * (x.shape[1] + 8) * _ROUNDING[torch.float32] * (x_norm[rows] + y_norm.max()) ** 2
        floor = distances[:, -1] - error if count < len(y) else np.full(len(rows), np.inf)
        return candidates.astype(np.int32), floor

    return Search(16384, propose)


def _lengths(x: Tensor, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The length of each row, and of what the row loses when stored as `dtype`, both a little over; in blocks."""
    norms, lost = [], []
    for block in x.split(4096):
        norms.append(torch.linalg.vector_norm(block, dim=1))
        if dtype != torch.float32:
            lost.append(torch.linalg.vector_norm(block - block.to(dtype), dim=1) * (1 + 1e-3))
    length = torch.cat(norms).double().cpu().numpy()
    return length, torch.cat(lost).double().cpu().numpy() if lost else np.zeros_like(length)


@compiled
def _insert(distance, index, squared, indices, filled):  # type: ignore[no-untyped-def]
    """Keep the row sorted by (distance, index); returns how many places are filled."""
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
def _settle(start, stop, rows, candidates, floor, x, y, own, offset, squared, indices, proven):  # type: ignore[no-untyped-def]
    """Sort the candidates of each row by canonical distance and tell whether no other row can be among the first k."""
    k = squared.shape[1]
    best, where = np.empty(k, np.float32), np.empty(k, np.int64)
    for r in range(start, stop):
        i = rows[r]
        filled = 0
        if own:  # ahead of the rows that equal it
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
