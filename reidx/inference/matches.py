"""Nearest gallery images of queries, by the cosine of their embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reidx.errors import DataError
from reidx.labels.features import checked
from reidx.labels.neighbours.exact import knn


@dataclass(frozen=True)
class Matches:
    """The k best gallery images of each query: their positions (Q,k) int64 and cosines (Q,k) float32, best first."""

    indices: Tensor
    similarities: Tensor


def nearest_rows(queries: Tensor, gallery: Tensor, k: int) -> Matches:
    """Find the ``k`` rows of ``gallery`` (G,D) with the largest cosines to each query (Q,D); of equal ones the first is first.

    Raises :class:`DataError` for an empty gallery, ``k`` beyond it, and features of another width.
    """
    queries, gallery = checked(queries, "queries"), checked(gallery, "gallery")
    if not len(gallery):
        raise DataError("The gallery is empty, so nothing can be found in it.")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(gallery):
        raise DataError(f"k is {k}; it must be a whole number from 1 to the {len(gallery):,} images of the gallery.")
    if queries.shape[1] != gallery.shape[1]:
        raise DataError(f"The queries have {queries.shape[1]} numbers each, the gallery {gallery.shape[1]}: embed both alike.")
    distances, indices = knn(gallery, k, queries=queries, metric="cosine")
    return Matches(torch.from_numpy(indices), torch.from_numpy(1 - distances))
