"""The k-reciprocal distance of MMT's DBSCAN variant, in the form used for re-ranking."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from reidx.labels.distances.jaccard import Jaccard
from reidx.labels.neighbours.encoding import encode

_ROWS = 1024  # rows of features in one block of products


class RerankingJaccard(Jaccard):
    """Jaccard distances computed as in MMT's re-ranking.

    Maps features (N, D) to the sparse graph of their k-reciprocal Jaccard distances, float32 in [0, 1).

    It differs from the core's :class:`Jaccard` in two points, both taken from re-ranking: the list of neighbours holds the
    image itself and ``k1`` others, and the weight of a neighbour is exp(−d²/m), where m is the largest squared distance d²
    from that image to any other. ``k2`` counts the image itself, as in the core.
    """

    def __init__(
        self, k1: int = 20, k2: int = 6, backend: str = "auto", device: str | None = None, sharded: bool = False
    ) -> None:
        super().__init__(k1, k2, backend, device, sharded)

    def encodings(self, features: Tensor) -> csr_array:
        """Return the k-reciprocal encodings (N, N) of unit features (N, D)."""
        squared, lists = self.nearest(features, self.k1 + 1)
        scale = 1 / _largest(features, self.device)
        return encode(features, squared, lists, self.k1 + 1, round(self.k1 / 2) + 1, self.k2, scale)


def _largest(features: Tensor, device: str | None) -> np.ndarray:
    """Return each unit feature's largest squared distance to any other, (N,) float64; 1 where all features are equal."""
    x = features if device is None else features.to(device)
    least = [(rows @ x.T).amin(1) for rows in x.split(_ROWS)]
    largest = (2 - 2 * torch.cat(least).double()).cpu().numpy() if least else np.zeros(0)
    return np.where(largest > 1e-6, largest, 1.0)
