"""A choice of DBSCAN's eps that needs no identities: the one with the most clusters.

With a small eps most images are outliers; with a large one the clusters of different people merge. The number of clusters is
largest in between, close to the best agreement with the identities (see the README of the plugin ca_jaccard).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from reidx.errors import DataError
from reidx.labels.clusterers.dbscan import DBSCAN

CANDIDATES = tuple(round(0.30 + 0.02 * step, 2) for step in range(24))
"""The values of eps that are tried: 0.30 to 0.76."""


@dataclass(frozen=True)
class Clustering:
    """The chosen ``eps``, its labels (N,), and for each eps that was tried its clusters and outliers."""

    eps: float
    labels: np.ndarray
    tried: Sequence[tuple[float, int, int]]


def most_clusters(graph: csr_array, candidates: Sequence[float] = CANDIDATES, min_samples: int = 4) -> Clustering:
    """Cluster a neighbour graph (N, N) by DBSCAN with the eps among ``candidates`` that gives the most clusters.

    Of several the largest is chosen, which leaves the fewest outliers. Raises :class:`DataError` if none gives a cluster.
    """
    labels = {eps: DBSCAN(eps, min_samples)(graph) for eps in candidates}
    tried = [(eps, int(found.max(initial=-1)) + 1, int((found < 0).sum())) for eps, found in labels.items()]
    eps, count, _ = max(tried, key=lambda row: (row[1], row[0]))
    if not count:
        raise DataError(
            f"No {min_samples} of {graph.shape[0]} images are alike (within distance {max(candidates)}): there is no cluster. "
            "Give more images of each person."
        )
    return Clustering(eps, labels[eps], tried)
