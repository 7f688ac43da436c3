"""DBSCAN on a sparse neighbour graph, in one pass over its edges."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from reidx.errors import ConfigError
from reidx.labels.compiled import compiled
from reidx.labels.graph import checked_graph


class DBSCAN:
    """Graph (N, N) to labels (N,) int64: clusters 0..K-1, -1 for outliers.

    The semantics are scikit-learn's for `metric="precomputed"`, its order of clusters too: an image with at least
    `min_samples` images (itself included) at distance <= `eps` is a core; cores in reach of each other are one cluster;
    clusters are numbered by their first core; any other image in reach of a core joins the first such cluster.
    `eps` must lie below 1, because a graph does not hold the pairs beyond. Cost: the number of edges.
    Source: Ester et al., KDD 1996.
    """

    requires: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    cameras = "unused"
    outliers = "emits"
    needs = "graph"

    def __init__(self, eps: float = 0.6, min_samples: int = 4) -> None:
        if not 0 < eps < 1:
            raise ConfigError(
                f"DBSCAN: eps is {eps}; it must lie between 0 and 1 (a pair absent from the graph is at distance 1)."
            )
        if min_samples < 1:
            raise ConfigError(f"DBSCAN: min_samples is {min_samples}; it must be at least 1.")
        self.eps, self.min_samples = eps, min_samples

    @property
    def reach(self) -> float:
        """The largest distance that changes its labels."""
        return self.eps

    def __call__(self, graph: csr_array) -> np.ndarray:
        """Labels (N,) int64 of a neighbour graph; its diagonal counts as distance 0 whether stored or not."""
        graph = checked_graph(graph)
        return _grow(
            graph.indptr, graph.indices, graph.data, graph.data.dtype.type(self.eps), self.min_samples
        )


@compiled
def _grow(indptr, indices, data, eps, min_samples):  # type: ignore[no-untyped-def]
    n = len(indptr) - 1
    core = np.zeros(n, np.bool_)
    for i in range(n):
        near = 1
        for p in range(indptr[i], indptr[i + 1]):
            if indices[p] != i and data[p] <= eps:
                near += 1
                if near >= min_samples:
                    break
        core[i] = near >= min_samples
    labels = np.full(n, -1, np.int64)
    stack = np.empty(n, np.int64)
    cluster = 0
    for seed in range(n):
        if labels[seed] != -1 or not core[seed]:
            continue
        labels[seed] = cluster
        stack[0], height = seed, 1
        while height > 0:
            height -= 1
            i = stack[height]
            for p in range(indptr[i], indptr[i + 1]):
                j = indices[p]
                if labels[j] == -1 and data[p] <= eps:
                    labels[j] = cluster
                    if core[j]:
                        stack[height] = j
                        height += 1
        cluster += 1
    return labels
