"""The neighbour graph: distances of the near pairs only, as a sparse matrix (N, N).

A stored entry is the distance of that pair, zeros and the diagonal included; a pair that is not stored is at distance
1 or more. So a graph may be cut at any distance below 1 without changing what a clusterer sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array, issparse

from reidx.errors import ConfigError, DataError


def checked_graph(graph: csr_array) -> csr_array:
    """The graph as CSR; raises DataError unless it is sparse, square, of floats, finite and not negative."""
    if not issparse(graph):
        raise DataError(
            f"neighbour graph: expected a sparse matrix, got {type(graph).__name__}. In a dense one a distance of 0 "
            "cannot be told from a pair that is not stored: build a csr_array from its (data, (rows, columns))."
        )
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1]:
        raise DataError(f"neighbour graph: expected shape (N, N), got {graph.shape}.")
    graph = csr_array(graph)
    if graph.data.dtype.kind != "f":
        raise DataError(f"neighbour graph: distances must be floats, not {graph.data.dtype}.")
    # One pass without a copy: NaN fails both comparisons.
    if graph.nnz and not (graph.data.min() >= 0 and graph.data.max() < np.inf):
        raise DataError("neighbour graph: distances must be finite and not negative.")
    return graph


def fuse(graphs: Sequence[csr_array], weights: Sequence[float]) -> csr_array:
    """The weighted sum of the distances of several graphs of the same images, sparse: absent pairs count as 1.

    The weights must not be negative and must sum to 1, so that a pair absent everywhere stays at distance 1.
    Used for the views of an image (LP section 1.2). Each graph is read once; the peak is the sum so far and one graph.
    """
    if len(graphs) != len(weights) or not graphs:
        raise ConfigError(f"fuse: {len(graphs)} graphs but {len(weights)} weights.")
    if min(weights) < 0 or not abs(sum(weights) - 1) <= 1e-6:
        raise ConfigError(f"fuse: weights must be >= 0 and sum to 1, got {list(weights)}.")
    if len({graph.shape for graph in graphs}) > 1:
        raise DataError(f"fuse: the graphs are of different images: shapes {[graph.shape for graph in graphs]}.")
    total: csr_array | None = None
    for graph, weight in zip(graphs, weights, strict=True):
        if weight == 0:
            continue
        nearness = csr_array(
            (np.float32(weight) * (1 - graph.data), graph.indices, graph.indptr), shape=graph.shape
        )
        total = nearness if total is None else total + nearness
    assert total is not None
    total.data = np.maximum(1 - total.data, 0)
    return total
