"""k-reciprocal re-ranking in blocks of queries; memory grows with the number of images, not of pairs.

Source: Zhong et al., CVPR 2017. Queries and gallery are encoded together as in `reidx.labels.distances.jaccard`, with lists of
k1 + 1 images (including the image itself) and with squared distances divided by the largest in the row, as for the numbers
published in the paper. The re-ranked distance is  (1 - lambda) · Jaccard + lambda · that normalised squared distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels.distances.jaccard import jaccard_between
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.candidates import exact_products
from reidx.labels.neighbours.encoding import encode
from reidx.labels.neighbours.exact import nearest

_ENTRY_BYTES = 32  # peak memory per entry of the encodings: before and after averaging, in parts and stacked
_PAIR_BYTES = 24  # memory per entry of the neighbour lists: index, squared distance, reciprocal lists


@dataclass(frozen=True)
class Reranking:
    """Encodings of queries and gallery, from which `evaluate(reranking=…)` computes the re-ranked distances."""

    queries: csr_array  # (Q, Q + G) encodings
    gallery: csc_array  # (G, Q + G) encodings
    largest: np.ndarray  # (Q,) the query's largest squared distance to any image, query or gallery
    k1: int
    k2: int
    lambda_: float

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of gallery images."""
        return self.queries.shape[0], self.gallery.shape[0]

    def block(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return factor (B,) and offset (B, G): the re-ranked distance is factor · squared distance + offset."""
        jaccard = jaccard_between(self.queries[rows], self.gallery)
        offset = np.full(jaccard.shape, 1 - self.lambda_, np.float32)
        owner = np.repeat(np.arange(jaccard.shape[0]), np.diff(jaccard.indptr))
        offset[owner, jaccard.indices] = (1 - self.lambda_) * jaccard.data
        return self.lambda_ / self.largest[rows], offset

    def card(self) -> dict[str, Any]:
        """Return the parameters, for a result's card."""
        return {"method": "k-reciprocal", "k1": self.k1, "k2": self.k2, "lambda": self.lambda_}


def rerank(
    query_features: Tensor | np.ndarray,
    gallery_features: Tensor | np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    metric: str = "euclidean",
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> Reranking:
    """Compute the k-reciprocal re-ranking of a gallery (G, D) for queries (Q, D), an argument of `evaluate`.

    ``metric`` is that of `evaluate`: "euclidean" (squared, of the features without normalisation) or "cosine" (of unit
    features). Raises ConfigError for parameters out of range, DataError for features that are not finite or differ in width.
    """
    if not 1 <= k2 <= k1 + 1 or not 0 <= lambda_ <= 1:
        raise ConfigError(
            f"rerank: k1={k1}, k2={k2}, lambda={lambda_}; needs 1 <= k2 <= k1 + 1 and lambda in [0, 1]."
        )
    query, gallery = checked(query_features, "query features"), checked(gallery_features, "gallery features")
    if query.shape[1] != gallery.shape[1]:
        raise DataError(
            f"rerank: query features have {query.shape[1]} columns, gallery features {gallery.shape[1]}."
        )
    if metric == "cosine":
        query, gallery = unit(query, "query features"), unit(gallery, "gallery features")
    both = torch.cat([query, gallery])
    largest = _largest_squared_distance(both, torch.device(device) if device is not None else both.device)
    squared, lists = nearest(both, k1 + 1, backend=backend, device=device)
    largest[largest == 0] = 1  # all rows are equal, and all distances 0
    encodings = encode(both, squared, lists, k1 + 1, round(k1 / 2) + 1, k2, 1 / largest)
    queries = len(query)
    return Reranking(encodings[:queries], encodings[queries:].tocsc(), largest[:queries], k1, k2, lambda_)


def bytes_to_rerank(images: int, k1: int, k2: int) -> float:
    """Return an upper bound of the memory that `rerank` takes besides the features, for queries and gallery together.

    An encoding has at most (k1 + 1) · (round(k1 / 2) + 2) entries, after averaging k2 times as many.
    """
    width = min(k1 + 1, images)
    entries = min(width * (round(k1 / 2) + 2) * (k2 if k2 > 1 else 1), images)
    return float(images) * (_ENTRY_BYTES * entries + _PAIR_BYTES * width)


def _largest_squared_distance(x: Tensor, place: torch.device) -> np.ndarray:
    """Return the largest squared Euclidean distance of each row to any row, (N,) float64; computed in blocks.

    The mean row is subtracted, so that rounding errors are small compared with the largest distance even if all rows are far
    from zero; values are scaled to about 1, so that nothing underflows.
    """
    if not len(x):
        return np.zeros(0)
    y = x.to(place)
    y = y - y.mean(dim=0, dtype=torch.float64).float()
    size = y.abs().max().clamp_(min=2.0**-120)
    y /= size
    square = (y * y).sum(dim=1)
    rows = max(16, (32 << 20) // (4 * max(len(y), 1)))
    with exact_products():
        parts = [torch.addmm(square, part, y.T, alpha=-2).amax(dim=1) for part in y.split(rows)]
    return ((torch.cat(parts) + square).clamp_(min=0).double() * float(size) ** 2).cpu().numpy()
