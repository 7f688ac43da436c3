"""Cosine distances to the k nearest neighbours, as a sparse graph."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from reidx.errors import ConfigError
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.duplicates import group_equal_rows
from reidx.labels.neighbours.exact import nearest
from reidx.labels.neighbours.sharding import nearest_sharded


class Cosine:
    """Cosine distances to each image's nearest neighbours; the cheapest.

    Maps features (N, D) to the sparse graph (N, N) of 1 - cosine between each image and its k nearest, itself included at 0;
    float32.

    Only distances below 1 are stored, so an image may have fewer than `k` entries. Row i holds the neighbours of i; the
    graph is not symmetric. The first of more than `k` equal images is linked to all of them, so that they are connected.
    `backend` and `device` are those of `knn`, `sharded` that of `Jaccard`. Raises DataError for features that are not finite
    or zero.
    """

    def __init__(
        self, k: int = 15, backend: str = "auto", device: str | None = None, sharded: bool = False
    ) -> None:
        if k < 1:
            raise ConfigError(f"Cosine: k is {k}; it must be at least 1.")
        self.k, self.backend, self.device, self.sharded = k, backend, device, sharded

    def __call__(self, features: Tensor, within: float = 1.0) -> csr_array:
        """Return the graph (N, N), columns ascending in each row, without distances beyond `within`."""
        search = nearest_sharded if self.sharded else nearest
        features = unit(checked(features))
        squared, indices = search(features, self.k, backend=self.backend, device=self.device)
        distances = squared / 2
        near = (distances < 1) & (distances <= np.float32(within))
        rows, columns = np.repeat(np.arange(len(near)), near.sum(axis=1)), indices[near]
        first, others = _pairs_beyond_k(features.cpu().numpy(), indices.shape[1])
        data = np.concatenate([distances[near], np.zeros(len(first), np.float32)])
        places = np.concatenate([rows, first]), np.concatenate([columns, others])
        graph = csr_array((data, places), shape=(len(indices), len(indices)))
        graph.sort_indices()
        return graph


def _pairs_beyond_k(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of the first of more than `k` equal rows with each of those beyond its `k` nearest."""
    several = group_equal_rows(x, few=k)
    if several is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    place = np.arange(len(x)) - several.starts[:-1].repeat(np.diff(several.starts))
    others = several.members[place >= k]
    return several.first[several.kind[others]], others
