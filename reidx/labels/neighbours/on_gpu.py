"""faiss on a CUDA device: flat indexes for exact candidates and for k-means, and an inverted file.

An index lies on one device, that of the process; its queries and results are NumPy arrays in main memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from reidx.errors import ConfigError
from reidx.labels.compiled import has_faiss

MOST = 2048
"""Maximum number of neighbours that faiss finds on a GPU."""

_MORE = 24  # candidates beyond k, because products are rounded
_SAMPLED = 500
_TRAINED_ON = 64  # rows a cell, for the k-means

Finder = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Queries (B,D) and a number C to squared distances (B,C) and indices (B,C), nearest first; -1 where fewer were found."""


def flat_on_gpu(width: int, place: torch.device, inner_product: bool = False) -> Any:
    """Return an empty flat index on the device; raises :class:`ConfigError` without a faiss that sees it."""
    faiss = _faiss(place)
    config = faiss.GpuIndexFlatConfig()
    config.device = place.index or 0
    cls = faiss.GpuIndexFlatIP if inner_product else faiss.GpuIndexFlatL2
    return cls(faiss.StandardGpuResources(), width, config)


def exact_on_gpu(gallery: np.ndarray, place: torch.device) -> Finder:
    """Return the exact search in rows (N,D)."""
    index = flat_on_gpu(gallery.shape[1], place)
    index.add(gallery)
    return _limited(index.search)


def ivf_on_gpu(
    gallery: np.ndarray, queries: np.ndarray, k: int, place: torch.device, aim: float
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Build an inverted file with 4·√N cells; return the function that :func:`reidx.labels.neighbours.approximate.ivf` returns.

    The number of cells to probe is the least power of two with which the share ``aim`` of the true neighbours of 500 sampled
    queries is found.
    """
    faiss, width = _faiss(place), gallery.shape[1]
    cells = max(1, min(int(4 * len(gallery) ** 0.5), len(gallery) // _TRAINED_ON))
    config = faiss.GpuIndexIVFFlatConfig()
    config.device = place.index or 0
    index = faiss.GpuIndexIVFFlat(faiss.StandardGpuResources(), width, cells, faiss.METRIC_L2, config)
    trained_on = np.linspace(0, len(gallery) - 1, min(len(gallery), _TRAINED_ON * cells)).astype(np.int64)
    index.train(gallery[trained_on])
    index.add(gallery)
    count, most = min(k + _MORE, len(gallery)), min(cells, MOST)
    sample = queries[np.linspace(0, len(queries) - 1, min(_SAMPLED, len(queries))).astype(np.int64)]
    true = exact_on_gpu(gallery, place)(sample, min(k, len(gallery)))[1]
    find, probed = _limited(index.search), 1
    while True:
        index.nprobe = min(probed, most)
        found = find(sample, count)[1]
        if probed >= most or (found[:, :, None] == true[:, None, :]).any(axis=1).mean() >= aim:
            break
        probed *= 2

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return find(queries[rows], count)[1].astype(np.int32), np.full(len(rows), np.inf)

    return propose


def _faiss(place: torch.device) -> Any:
    if has_faiss():
        import faiss

        if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > (place.index or 0):
            return faiss
    raise ConfigError(f"The installed faiss sees no GPU {place}: install faiss-gpu, or use backend torch or auto.")


def _limited(search: Finder) -> Finder:
    def find(queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        if count > MOST:
            raise ConfigError(f"faiss finds at most {MOST:,} neighbours on a GPU, not {count:,}: use backend torch.")
        return search(np.ascontiguousarray(queries), count)

    return find
