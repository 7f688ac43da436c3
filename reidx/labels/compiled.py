"""Compiled loops of numba and faiss, on as many threads as torch may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numba import njit

# "reassoc" lets the sums of squares use vector registers. One kernel still does the same additions in the same
# order for each pair of rows, so two equal rows get two equal distances, on every run.
_REORDERED_SUMS = {"reassoc", "contract", "nsz"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as machine code that releases the interpreter lock; the code is kept on disk between runs.

    numba invalidates its cache when the function's own file changes, but not when the file of a called function does:
    after a change to `squared_distance`, delete the `*.nbi` files.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": _REORDERED_SUMS}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba has no writable cache folder: the installation is read-only
        return njit(**options)(function)


def in_threads(kernel: Callable[..., Any], rows: int, *args: Any, chunks_per_thread: int = 4) -> list[Any]:
    """`kernel(start, stop, *args)` for consecutive ranges that cover `rows`, results in the order of the ranges.

    Each range writes only its own rows, so the result does not depend on the number of threads.
    """
    threads = max(1, torch.get_num_threads())
    edges = np.linspace(0, rows, min(rows, threads * chunks_per_thread) + 1).astype(np.int64)
    ranges = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    if threads == 1 or len(ranges) <= 1:
        return [kernel(start, stop, *args) for start, stop in ranges]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda r: kernel(r[0], r[1], *args), ranges))


def side_by_side(work: Callable[..., None], threads: int, rows: int, *args: Any) -> None:
    """Run `work(start, stop, *args)` in `threads` threads, each with one thread for its torch operations.

    For work that alternates between torch and compiled loops: torch's own threads, spinning while idle, would occupy the
    cores that the loops need. With one thread the work runs in the caller's.
    """
    if threads == 1:
        work(0, rows, *args)
        return
    edges = np.linspace(0, rows, min(rows, threads) + 1).astype(np.int64).tolist()
    before = torch.get_num_threads()

    def alone(start: int, stop: int) -> None:
        torch.set_num_threads(1)  # the setting is per thread
        work(start, stop, *args)

    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(alone, edges[:-1], edges[1:]))
    finally:
        torch.set_num_threads(before)


def has_faiss() -> bool:
    """Return True if faiss is installed."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def faiss_threads() -> Iterator[None]:
    """Set the number of faiss threads to that of torch inside the context."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@compiled
def squared_distance(a: np.ndarray, b: np.ndarray) -> np.float32:
    """The squared Euclidean distance of two float32 vectors, summed in float64 and rounded to float32."""
    total = 0.0
    for d in range(a.shape[0]):
        difference = np.float64(a[d]) - np.float64(b[d])
        total += difference * difference
    return np.float32(total)
