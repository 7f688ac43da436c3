"""Camera-aware k-reciprocal Jaccard distances, exact and sparse.

Source: Chen et al., "CA-Jaccard: Camera-aware Jaccard Distance for Person Re-identification", CVPR 2024, and the released code.
Each image i has two lists of neighbours. I(i) has the image itself and its k1_intra nearest images of the same camera; O(i) has
its k1_inter + 1 nearest images of all other cameras. Then

    R(i)    = {j in I(i) : i in I(j)} and {j in O(i) : i in O(j)}       (camera-aware k-reciprocal neighbours)
    V(i, j) = exp(-|f_i - f_j|²), j in R(i), divided by the row's sum
    W(i)    = mean of V over the first k2_intra of I(i) and the first k2_inter of O(i)     (camera-aware query expansion)
    d(i, j) = 1 - s / (2 - s),  s = sum_t min(W(i, t), W(j, t))

Cost: that of `reidx.labels.distances.jaccard`, whose last step it shares; the search across cameras takes (N² - sum of squared
numbers of images of the cameras)·D multiplications, and memory is proportional to N·(k1_intra + k1_inter).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels.distances.jaccard import jaccard
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.exact import nearest
from reidx.labels.neighbours.sharding import nearest_sharded


class CAJaccard:
    """k-reciprocal Jaccard distances within and across cameras.

    Maps features (N, D) and cameras (N,) to the sparse graph of their distances, float32 in [0, 1).

    Neighbours in the same camera and in the other cameras are searched separately, so that the images of one camera, which
    resemble each other, cannot fill a list. The lists have `k1_intra` images besides the image itself and `k1_inter` + 1 images
    of other cameras. The encodings of the first `k2_intra` images (the image itself is the first) and of the first `k2_inter`
    images of the two lists are averaged. A list ends early if there are fewer images; with one camera, only that camera's list
    counts. Features are scaled to length 1. `backend`, `device` and `sharded` are those of `Jaccard`; they change the time, not
    the graph. Raises DataError for features that are not finite and for images without a camera.
    """

    cameras = "required"

    def __init__(
        self,
        k1_intra: int = 5,
        k1_inter: int = 20,
        k2_intra: int = 2,
        k2_inter: int = 4,
        backend: str = "auto",
        device: str | None = None,
        sharded: bool = False,
    ) -> None:
        if not 1 <= k2_intra <= k1_intra + 1 or not 0 <= k2_inter <= k1_inter + 1:
            raise ConfigError(
                f"CAJaccard: k1_intra={k1_intra}, k2_intra={k2_intra}, k1_inter={k1_inter}, k2_inter={k2_inter}; needs "
                "1 <= k2_intra <= k1_intra + 1 and 0 <= k2_inter <= k1_inter + 1."
            )
        self.k1_intra, self.k1_inter, self.k2_intra, self.k2_inter = k1_intra, k1_inter, k2_intra, k2_inter
        self.backend, self.device, self.sharded = backend, device, sharded

    def __call__(self, features: Tensor, *, cameras: np.ndarray, within: float = 1.0) -> csr_array:
        """Return the symmetric graph (N, N) of the distances below 1 that are not beyond `within`, with its diagonal."""
        return jaccard(self.encodings(unit(checked(features)), np.asarray(cameras)), within=within)

    def encodings(self, features: Tensor, cameras: np.ndarray) -> csr_array:
        """Return the averaged camera-aware encodings W (N, N) of unit features (N, D); rows sum to 1, columns ascend."""
        _require_cameras(cameras, len(features))
        intra, inter = self.neighbours(features, cameras)
        reciprocal = intra.reciprocal_weights() + inter.reciprocal_weights()
        first = intra.first(self.k2_intra) + inter.first(self.k2_inter)
        encodings = _rows_sum_to_1(first) @ _rows_sum_to_1(reciprocal)
        encodings.sort_indices()
        return encodings

    def neighbours(self, features: Tensor, cameras: np.ndarray) -> tuple[Neighbours, Neighbours]:
        """Search the neighbours of unit features (N, D) in the same camera, each image its own first, and in the others."""
        search = nearest_sharded if self.sharded else nearest
        intra, inter = (Neighbours.none(len(features), k + 1) for k in (self.k1_intra, self.k1_inter))
        for camera in np.unique(cameras):
            own, others = np.flatnonzero(cameras == camera), np.flatnonzero(cameras != camera)
            queries, gallery = (features[torch.from_numpy(rows).to(features.device)] for rows in (own, others))
            intra.enter(own, own, *search(queries, self.k1_intra + 1, backend=self.backend, device=self.device))
            if len(others):
                found = search(gallery, self.k1_inter + 1, queries=queries, backend=self.backend, device=self.device)
                inter.enter(own, others, *found)
        return intra, inter


class Neighbours(NamedTuple):
    """Neighbour lists, nearest first: squared distances (N, k) and indices (N, k), -1 after the last neighbour."""

    squared: np.ndarray
    indices: np.ndarray

    @classmethod
    def none(cls, images: int, k: int) -> Neighbours:
        """Return empty lists with room for `k` neighbours of each image."""
        return cls(np.zeros((images, k), np.float32), np.full((images, k), -1, np.int32))

    def enter(self, rows: np.ndarray, gallery: np.ndarray, squared: np.ndarray, places: np.ndarray) -> None:
        """Set the lists of `rows` to the neighbours at these places of `gallery`, which holds numbers of images."""
        self.squared[rows, : squared.shape[1]] = squared
        self.indices[rows, : places.shape[1]] = gallery[places]

    def reciprocal_weights(self) -> csr_array:
        """Return exp(-squared distance) of the pairs that are in each other's lists (N, N)."""
        weights = self._matrix(np.exp(-self.squared.astype(np.float64)).astype(np.float32))
        return weights.minimum(weights.T)  # both weights of a pair are equal, and that of an absent neighbour is 0

    def first(self, k: int) -> csr_array:
        """Return a matrix (N, N) with 1 for the first `k` neighbours of each image."""
        return Neighbours(self.squared[:, :k], self.indices[:, :k])._matrix(np.ones((len(self.indices), k), np.float32))

    def _matrix(self, values: np.ndarray) -> csr_array:
        """Return the sparse matrix (N, N) with `values` (N, k) at the neighbours."""
        present = self.indices >= 0
        indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
        return csr_array((values[present], self.indices[present], indptr), shape=(len(present), len(present)))


def _rows_sum_to_1(matrix: csr_array) -> csr_array:
    """Divide each row by its sum."""
    total = np.asarray(matrix.sum(axis=1, dtype=np.float64)).reshape(-1)
    values = matrix.data / np.repeat(total, np.diff(matrix.indptr))
    return csr_array((values.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _require_cameras(cameras: np.ndarray, images: int) -> None:
    """Raise :class:`DataError` unless every image has a camera."""
    if cameras.shape != (images,):
        raise DataError(f"CAJaccard: there are cameras of shape {cameras.shape} for {images} images; expected ({images},).")
    unknown = np.flatnonzero(cameras < 0)
    if len(unknown):
        raise DataError(
            f"CAJaccard: the cameras of {len(unknown)} of {images} images are unknown (the first is image {unknown[0]}). Leave "
            "these images out of the training list, or use the distance Jaccard, which needs no cameras."
        )
