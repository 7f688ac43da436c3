"""The distance of MMT's variant by DBSCAN: k-reciprocal, in the form in which it came from re-ranking."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from reidx.labels.distances.jaccard import Jaccard
from reidx.labels.neighbours.encoding import encode

_ROWS = 1024  # of a block of products


class RerankingJaccard(Jaccard):
    """Jaccard distances computed as in MMT's re-ranking.

    Features (N, D) to the sparse graph of their k-reciprocal Jaccard distances, float32 in [0, 1), as MMT computes them.

    It differs from the core's :class:`Jaccard` in two points, both as in the re-ranking that it comes from: the list of
    neighbours has the image itself and ``k1`` others, and the weight of a neighbour is exp(−d²/m), with m the largest
    squared distance d² of that image to any. ``k2`` counts the image itself, as there. All else is the core's.
    """

    def __init__(
        self, k1: int = 20, k2: int = 6, backend: str = "auto", device: str | None = None, sharded: bool = False
    ) -> None:
        super().__init__(k1, k2, backend, device, sharded)

    def encodings(self, features: Tensor) -> csr_array:
        """The k-reciprocal encodings (N, N) of unit features (N, D)."""
        squared, lists = self.nearest(features, self.k1 + 1)
        scale = 1 / _largest(features, self.device)
        return encode(features, squared, lists, self.k1 + 1, round(self.k1 / 2) + 1, self.k2, scale)


def _largest(features: Tensor, device: str | None) -> np.ndarray:
    """The largest squared distance of each of the unit ``features`` (N, D) to any, (N,) float64; 1 where all are the same."""
    x = features if device is None else features.to(device)
    least = [(rows @ x.T).amin(1) for rows in x.split(_ROWS)]
    largest = (2 - 2 * torch.cat(least).double()).cpu().numpy() if least else np.zeros(0)
    return np.where(largest > 1e-6, largest, 1.0)
