"""DBSCAN on a sparse neighbour graph, in one pass over its edges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_array, triu

from reidx.errors import ConfigError, DataError
from reidx.labels.compiled import compiled
from reidx.labels.graph import checked_graph, refuse_beyond

_BYTES = 20  # per distance, during the search for the smallest


class DBSCAN:
    """Density clusters with outliers; the usual choice, needs an eps.

    Graph (N, N) to labels (N,) int64: clusters 0..K-1, -1 for outliers.

    The semantics are scikit-learn's for `metric="precomputed"`, including its order of clusters: an image with at least
    `min_samples` images (itself included) at distance <= `eps` is a core; cores in reach of each other are one cluster;
    clusters are numbered by their first core; any other image in reach of a core joins the first such cluster.
    `eps` must lie below 1, because a graph does not hold the pairs beyond. Cost: the number of edges.
    Source: Ester et al., KDD 1996.
    """

    outliers = "emits"
    clusterer_input = "graph"

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


class AdaptiveDBSCAN(DBSCAN):
    """DBSCAN with an eps found from the data, where none is known.

    DBSCAN whose eps is the mean of the smallest ``share`` of all pairwise distances at the first labelling, then kept.

    Pairs at distance 0 (an image twice) are left out; pairs absent from the graph count as 1. A resumed run keeps
    its eps. Raises DataError where that mean is not below 1. Source: Song et al., "Unsupervised Domain Adaptive
    Re-Identification: Theory and Practice", Pattern Recognition 2020; also in the DBSCAN variant of MMT.
    """

    def __init__(self, share: float = 1.6e-3, min_samples: int = 4) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"AdaptiveDBSCAN: share is {share}; it must lie between 0 and 1.")
        super().__init__(min_samples=min_samples)
        self.share, self.known = share, False

    @property
    def reach(self) -> float:
        """The largest distance that changes its labels; all count before eps is known."""
        return self.eps if self.known else 1.0

    def __call__(self, graph: csr_array) -> np.ndarray:
        """Labels (N,) int64 of a neighbour graph; the first graph determines eps."""
        if not self.known:
            self.eps, self.known = mean_of_smallest(checked_graph(graph), self.share), True
        return super().__call__(graph)

    def notes(self) -> list[str]:
        """A sentence with the eps that was found."""
        return [f"AdaptiveDBSCAN: eps {self.eps:.4f} from the first labelling on"] if self.known else []

    def state_dict(self) -> dict[str, float]:
        """The eps, 0 before it is found, and the share that determined it."""
        return {"eps": self.eps if self.known else 0.0, "share": self.share}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore a state; an eps found with another share is discarded."""
        if state["eps"] > 0 and state["share"] == self.share:
            self.eps, self.known = float(state["eps"]), True


def mean_of_smallest(graph: csr_array, share: float) -> float:
    """The mean of the smallest ``share`` of all pairwise distances, without those of 0."""
    n = graph.shape[0]
    refuse_beyond(graph.nnz * _BYTES, f"AdaptiveDBSCAN: {graph.nnz:,} distances of {n:,} images")
    upper = triu(graph, k=1)
    apart = upper.data[upper.data > 0]
    pairs = n * (n - 1) // 2 - (len(upper.data) - len(apart))
    count = round(share * pairs)
    if count < 1:
        raise DataError(f"AdaptiveDBSCAN: {share:g} of {pairs} pairs of {n} images is none; raise share.")
    nearest = np.partition(apart, count - 1)[:count] if count < len(apart) else apart
    eps = (float(nearest.sum(dtype=np.float64)) + count - len(nearest)) / count
    if not eps < 1:
        raise DataError(f"AdaptiveDBSCAN: the nearest {count} pairs of {n} images share no neighbours (their mean is 1).")
    return eps


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
