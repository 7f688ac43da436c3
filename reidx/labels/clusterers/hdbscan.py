"""HDBSCAN on a sparse neighbour graph, by scikit-learn on a connected graph."""

from __future__ import annotations

import warnings

import numpy as np
import sklearn
from scipy.sparse import csgraph, csr_array

from reidx.errors import ConfigError, ReidxError
from reidx.labels.graph import checked_graph, refuse_beyond

_BYTES = 150  # per distance at the peak, including scikit-learn's spanning tree


class HDBSCAN:
    """Density clusters of varying density, without an eps to choose.

    Graph (N, N) to labels (N,) int64: clusters 0..K-1, -1 for outliers.

    The clusters are those of the dense distance matrix in which pairs absent from the graph are at distance 1, but for
    merges at equal distances, which scikit-learn makes in its order of the edges. A graph that is not
    symmetric counts a pair stored on either side, at the smaller distance. `min_samples` defaults to
    `min_cluster_size`; `epsilon` merges clusters that are closer than it. Source: Campello et al., PAKDD 2013.
    """

    outliers = "emits"
    clusterer_input = "graph"

    def __init__(
        self,
        min_cluster_size: int = 4,
        min_samples: int | None = None,
        epsilon: float = 0.0,
        selection: str = "eom",
    ) -> None:
        if min_cluster_size < 2 or (min_samples is not None and min_samples < 1):
            raise ConfigError("HDBSCAN: min_cluster_size must be at least 2, min_samples at least 1.")
        if not 0 <= epsilon < 1:
            raise ConfigError(f"HDBSCAN: epsilon is {epsilon}; it must lie in [0, 1).")
        if selection not in ("eom", "leaf"):
            raise ConfigError(f"HDBSCAN: unknown selection {selection!r}; choose one of eom, leaf.")
        self.min_cluster_size, self.min_samples = min_cluster_size, min_samples
        self.epsilon, self.selection = epsilon, selection

    def __call__(self, graph: csr_array) -> np.ndarray:
        """Labels (N,) int64."""
        from sklearn.cluster import HDBSCAN as Peer

        graph = checked_graph(graph)
        samples = self.min_samples or self.min_cluster_size
        if graph.shape[0] < max(2, samples, self.min_cluster_size):
            return np.full(graph.shape[0], -1, np.int64)
        refuse_beyond(graph.nnz * _BYTES, f"HDBSCAN: {graph.nnz:,} distances of {graph.shape[0]:,} images")
        peer = Peer(
            min_cluster_size=self.min_cluster_size, min_samples=samples, metric="precomputed",
            cluster_selection_epsilon=self.epsilon, cluster_selection_method=self.selection, copy=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            try:
                labels = peer.fit_predict(_spanned(graph, samples))
            except TypeError as error:
                if not self.epsilon:
                    raise
                raise ReidxError(
                    f"HDBSCAN: scikit-learn {sklearn.__version__} cannot merge clusters by epsilon with numpy "
                    f"{np.__version__} ({error}). Set epsilon: 0, or install another version of the two."
                ) from error
        return labels.astype(np.int64)


def _spanned(graph: csr_array, least: int) -> csr_array:
    """The graph, symmetric and connected, with `least` entries in each row: absent pairs filled in at distance 1."""
    n = graph.shape[0]
    nearness = csr_array((1 - graph.data.astype(np.float64), graph.indices, graph.indptr), shape=graph.shape)
    nearness.setdiag(1.0)
    entries = nearness.maximum(nearness.T).tocoo()
    rows, columns = entries.row.astype(np.int64), entries.col.astype(np.int64)
    # The spanning tree code treats distance 0 as "no edge".
    distances = np.maximum(1 - entries.data, 1e-9)

    poor = np.nonzero(np.bincount(rows, minlength=n) < least)[0]
    component = csgraph.connected_components(entries, directed=False)[1]
    first = np.unique(component, return_index=True)[1]
    from_, to = [first[:-1]], [first[1:]]
    for step in range(1, least + 1):
        from_.append(poor)
        to.append((poor + step) % n)
    a, b = np.concatenate(from_), np.concatenate(to)
    added = np.unique(np.concatenate([a * n + b, b * n + a]))
    added = added[~np.isin(added, rows * n + columns)]
    return csr_array(
        (
            np.concatenate([distances, np.ones(len(added))]),
            (np.concatenate([rows, added // n]), np.concatenate([columns, added % n])),
        ),
        shape=(n, n),
    )
