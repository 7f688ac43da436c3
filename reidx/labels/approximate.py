"""Approximate neighbours for banks on which N² products take too long: an inverted file of faiss (backend "ivf").

The rows are divided among 4·√N cells by k-means; a row is compared with those of the 32 cells nearest to it. What is
found is ordered by the canonical distances as always, but a neighbour in another cell is missed. The share that is
found (the recall) depends on the features: `recall` measures it, and each search logs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from reidx.errors import ConfigError

_PROBED = 32
_TRAINED_ON = 64  # rows a cell, for the k-means
_SAMPLE = 200
_log = logging.getLogger(__name__)

Propose = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def ivf(gallery: np.ndarray, queries: np.ndarray, count: int) -> Propose:
    """The candidates (B, count) of query rows, -1 where there are fewer, with a floor that takes them as they are."""
    try:
        import faiss
    except ImportError as absent:
        raise ConfigError("knn: backend ivf needs faiss: pip install faiss-cpu.") from absent
    from reidx.labels.neighbours import faiss_threads

    cells = max(1, min(int(4 * len(gallery) ** 0.5), len(gallery) // _TRAINED_ON))
    index = faiss.index_factory(gallery.shape[1], f"IVF{cells},Flat")
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _TRAINED_ON
    with faiss_threads():
        index.train(gallery)
        index.add(gallery)
    index.nprobe = _PROBED

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with faiss_threads():
            candidates = index.search(queries[rows], count)[1]
        # A row with fewer candidates than neighbours asked for goes on to the comparison with all rows.
        return candidates.astype(np.int32), np.full(len(rows), np.inf)

    sample = np.linspace(0, len(queries) - 1, min(_SAMPLE, len(queries))).astype(np.int64)
    _log.info("approximate neighbours: recall %.4f on %d rows", recall(gallery, queries[sample], propose(sample)[0]), len(sample))
    return propose


def recall(gallery: np.ndarray, queries: np.ndarray, found: np.ndarray) -> float:
    """The share of the true nearest rows that are among those found, (Q, count); exact search by brute force."""
    from reidx.labels.neighbours import nearest

    true = nearest(torch.from_numpy(gallery), found.shape[1], queries=torch.from_numpy(queries))[1]
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]))
