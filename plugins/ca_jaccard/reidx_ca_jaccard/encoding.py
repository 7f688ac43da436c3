"""Camera-aware k-reciprocal encodings, exact and sparse, shared by the distance and the re-ranking.

Source: Chen et al., "CA-Jaccard: Camera-aware Jaccard Distance for Person Re-identification", CVPR 2024, and the released code.
Each image i has two lists of neighbours. I(i) has the image itself and its k1_intra nearest images of the same camera; O(i) has
its k1_inter + 1 nearest images of all other cameras. Then

    R(i)    = {j in I(i) : i in I(j)} and {j in O(i) : i in O(j)}       (camera-aware k-reciprocal neighbours)
    V(i, j) = exp(-e(i, j)), j in R(i), divided by the row's sum
    W(i)    = mean of V over the first k2_intra of I(i) and the first k2_inter of O(i)     (camera-aware query expansion)

with an exponent e(i, j) that the distance and the re-ranking compute from |f_i - f_j|².

Cost, besides one search in each camera: the search across cameras takes (N² - sum of squared numbers of images of the
cameras)·D multiplications, and memory is proportional to N·(k1_intra + k1_inter).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels.neighbours.exact import nearest

Exponents = Callable[[np.ndarray], np.ndarray]
"""Function from the squared distances of each image to its neighbours (N, k) float64 to exponents e (N, k)."""


class Lengths(NamedTuple):
    """Lengths of the lists: neighbours that may enter an encoding, and neighbours whose encodings are averaged."""

    k1_intra: int
    k1_inter: int
    k2_intra: int
    k2_inter: int

    def check(self, component: object) -> Lengths:
        """Return the lengths; raises ConfigError, which names the component, for an average over more than a list."""
        if 1 <= self.k2_intra <= self.k1_intra + 1 and 0 <= self.k2_inter <= self.k1_inter + 1:
            return self
        given = ", ".join(f"{name}={value}" for name, value in self._asdict().items())
        raise ConfigError(
            f"{type(component).__name__}: {given}; needs 1 <= k2_intra <= k1_intra + 1 and 0 <= k2_inter <= k1_inter + 1."
        )


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

    def reciprocal_weights(self, exponents: Exponents) -> csr_array:
        """Return exp(-e) of the pairs that are in each other's lists (N, N)."""
        weights = self._matrix(np.exp(-exponents(self.squared.astype(np.float64))).astype(np.float32))
        return weights * self.first(self.indices.shape[1]).T

    def first(self, k: int) -> csr_array:
        """Return a matrix (N, N) with 1 for the first `k` neighbours of each image."""
        return Neighbours(self.squared[:, :k], self.indices[:, :k])._matrix(np.ones((len(self.indices), k), np.float32))

    def _matrix(self, values: np.ndarray) -> csr_array:
        """Return the sparse matrix (N, N) with `values` (N, k) at the neighbours."""
        present = self.indices >= 0
        indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
        return csr_array((values[present], self.indices[present], indptr), shape=(len(present), len(present)))


def encode(
    features: Tensor,
    cameras: np.ndarray,
    lengths: Lengths,
    exponents: Exponents,
    search: Callable[..., tuple[np.ndarray, np.ndarray]] = nearest,
) -> csr_array:
    """Return the averaged encodings W (N, N) of features (N, D) under cameras (N,); rows sum to 1, columns ascend.

    Raises DataError unless every image has a camera.
    """
    _require_cameras(cameras, len(features))
    intra, inter = neighbours(features, cameras, lengths, search)
    reciprocal = intra.reciprocal_weights(exponents) + inter.reciprocal_weights(exponents)
    first = intra.first(lengths.k2_intra) + inter.first(lengths.k2_inter)
    encodings = _rows_sum_to_1(first) @ _rows_sum_to_1(reciprocal)
    encodings.sort_indices()
    return encodings


def neighbours(
    features: Tensor, cameras: np.ndarray, lengths: Lengths, search: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> tuple[Neighbours, Neighbours]:
    """Search the neighbours of features (N, D) in the same camera, each image its own first, and in the others."""
    intra, inter = (Neighbours.none(len(features), k + 1) for k in (lengths.k1_intra, lengths.k1_inter))
    for camera in np.unique(cameras):
        own, others = np.flatnonzero(cameras == camera), np.flatnonzero(cameras != camera)
        queries, gallery = (features[torch.from_numpy(rows).to(features.device)] for rows in (own, others))
        intra.enter(own, own, *search(queries, lengths.k1_intra + 1))
        if len(others):
            inter.enter(own, others, *search(gallery, lengths.k1_inter + 1, queries=queries))
    return intra, inter


def _rows_sum_to_1(matrix: csr_array) -> csr_array:
    """Divide each row by its sum."""
    total = np.asarray(matrix.sum(axis=1, dtype=np.float64)).reshape(-1)
    values = matrix.data / np.repeat(total, np.diff(matrix.indptr))
    return csr_array((values.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _require_cameras(cameras: np.ndarray, images: int) -> None:
    """Raise :class:`DataError` unless every image has a camera."""
    if cameras.shape != (images,):
        raise DataError(f"CA-Jaccard: there are cameras of shape {cameras.shape} for {images} images; expected ({images},).")
    unknown = np.flatnonzero(cameras < 0)
    if len(unknown):
        raise DataError(
            f"CA-Jaccard: the cameras of {len(unknown)} of {images} images are unknown (the first is image {unknown[0]}). "
            "Leave these images out of the list, or use Jaccard or KReciprocal, which need no cameras."
        )
