"""Approximate neighbours for banks on which N² products take too long: an inverted file of faiss (backend "ivf").

The rows are divided among 4·√N cells by k-means; a row is compared with those of the 32 cells nearest to it. What is
found is ordered by the canonical distances as always, but a neighbour in another cell is missed. The share that is
found (the recall) depends on the features, so each search measures it on 200 rows and logs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from reidx.errors import ConfigError
from reidx.labels.compiled import faiss_threads, has_faiss

_PROBED = 32
_TRAINED_ON = 64  # rows a cell, for the k-means


def ivf(
    gallery: np.ndarray, queries: np.ndarray, count: int
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function from query rows to candidates (B, count), -1 where there are fewer, and a floor that accepts them."""
    if not has_faiss():
        raise ConfigError("knn: backend ivf needs faiss: pip install faiss-cpu.")
    import faiss

    cells = max(1, min(int(4 * len(gallery) ** 0.5), len(gallery) // _TRAINED_ON))
    index: Any = faiss.index_factory(gallery.shape[1], f"IVF{cells},Flat")
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

    return propose
