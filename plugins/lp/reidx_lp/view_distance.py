"""The distance of two images over several views: the weighted mean of the views' Jaccard distances."""

from __future__ import annotations

from collections.abc import Mapping

from scipy.sparse import csr_array
from torch import Tensor

from reidx.errors import ConfigError
from reidx.labels.distances.jaccard import Jaccard
from reidx.labels.distances.weighted_mean import weighted_mean


class ViewFusedJaccard:
    """Jaccard distances of the whole image and its halves, weighted.

    D = (1 − 2λ) D_global + λ D_upper + λ D_lower (N,N), sparse, float32 in [0, 1): λ is ``lambda1``, D_v a Jaccard distance.

    A view of weight 0 is not computed. The views are computed one after another, each only at the pairs that can still be
    within reach after the earlier ones. ``k1``, ``k2``, ``backend``, ``device`` and ``sharded`` as in ``Jaccard``.

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
        return weighted_mean(self.jaccard, features, self.weights, within)
