"""The distance of two images over several views: the weighted mean of the views' Jaccard distances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from reidx.errors import ConfigError
from reidx.labels.distances.jaccard import Jaccard
from reidx.labels.graph import fuse

_SLACK = 1e-5  # far above the rounding of a distance in float32, far below what a cut could save


class ViewFusedJaccard:
    """Jaccard distances of the whole image and its halves, weighted.

    D = (1 − 2λ) D_global + λ D_upper + λ D_lower (N,N), sparse, float32 in [0, 1): λ is ``lambda1``, D_v a Jaccard distance.

    A view of weight 0 is not computed. The views are computed one after another, each only at the pairs that can still be
    within reach after the earlier ones. The peak memory is the sum so far and the graph of one view. ``k1``, ``k2``,
    ``backend``, ``device`` and ``sharded`` as in ``Jaccard``.

    Raises :class:`ConfigError` for a ``lambda1`` outside [0, 0.5]. Source: the authors' code.
    """

    requires = frozenset({"global", "upper", "lower"})

    def __init__(
        self,
        k1: int = 30,
        k2: int = 6,
        lambda1: float = 0.15,
        backend: str = "auto",
        device: str | None = None,
        sharded: bool = False,
    ) -> None:
        if not 0.0 <= lambda1 <= 0.5:
            raise ConfigError(f"lambda1 is {lambda1}; it must lie in [0, 0.5]: the weight of the whole is 1 - 2 * lambda1.")
        self.weights = {"global": 1.0 - 2.0 * lambda1, "upper": lambda1, "lower": lambda1}
        self.jaccard = Jaccard(k1, k2, backend, device, sharded)

    def __call__(self, features: Mapping[str, Tensor], within: float = 1.0) -> csr_array:
        """Return the graph (N,N) of the views (N,D): symmetric, with its diagonal and all pairs below 1 and up to `within`."""
        mean: csr_array | None = None  # over the views so far
        pairs: csr_array | None = None  # that can still be within reach; None: all
        weighed = 0.0
        for view, weight in self.weights.items():
            if weight == 0:
                continue
            graph = self.jaccard(features[view], within=_reach(within, weight), among=pairs)
            total = weighed + weight
            mean = graph if mean is None else fuse([mean, graph], [weighed / total, weight / total])
            weighed, reach = total, _reach(within, total)
            mean = _cut(mean, reach)
            # weighted distances only grow: later views cannot bring a pair beyond `within` back
            pairs = mean if reach < 1 else None
        assert mean is not None
        return _cut(mean, within)


def _reach(within: float, weight: float) -> float:
    """The largest distance needed of views with a total ``weight``; beyond it, their part of the sum exceeds ``within``."""
    return min((within + _SLACK) / weight, 1.0)


def _cut(graph: csr_array, within: float) -> csr_array:
    """The graph without distances beyond ``within`` and without those of 1, which a graph does not store."""
    kept = (graph.data <= np.float32(within)) & (graph.data < 1)
    if kept.all():
        return graph
    before = np.concatenate([[0], np.cumsum(kept)])
    indptr = before[graph.indptr].astype(graph.indptr.dtype)
    return csr_array((graph.data[kept], graph.indices[kept], indptr), shape=graph.shape)
