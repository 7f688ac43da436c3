"""k-reciprocal re-ranking, sparse: only the pairs whose encodings overlap are stored.

Source: Zhong et al., CVPR 2017. Queries and gallery are encoded together as in `reidx.labels.distances.jaccard`, with lists of
k1 + 1 (self included), and squared distances divided by the largest in the row, as the paper's published numbers were
made. The ranked distance is  (1 - lambda) · Jaccard + lambda · that normalised squared distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels.distances.jaccard import jaccard
from reidx.labels.features import checked
from reidx.labels.neighbours.candidates import exact_products
from reidx.labels.neighbours.encoding import encode
from reidx.labels.neighbours.exact import nearest


@dataclass(frozen=True)
class Reranking:
    """The parts of the re-ranked distance of each query to each gallery image, for `evaluate(reranking=…)`."""

    jaccard: csr_array  # (Q, G), the pairs closer than 1
    largest: np.ndarray  # (Q,) the query's largest squared distance to any image, query or gallery
    k1: int
    k2: int
    lambda_: float

    def block(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """For these queries: factor (B,) and offset (B, G) so that factor · squared distance + offset is what ranks."""
        part = self.jaccard[rows]
        offset = np.full(part.shape, 1 - self.lambda_, np.float32)
        owner = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
        offset[owner, part.indices] = (1 - self.lambda_) * part.data
        return self.lambda_ / self.largest[rows], offset

    def card(self) -> dict[str, Any]:
        """The parameters, for a result's card."""
        return {"method": "k-reciprocal", "k1": self.k1, "k2": self.k2, "lambda": self.lambda_}


def rerank(
    query_features: Tensor | np.ndarray,
    gallery_features: Tensor | np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_: float = 0.3,
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> Reranking:
    """The k-reciprocal re-ranking of a gallery (G, D) for queries (Q, D), to be passed to `evaluate`.

    Distances are squared Euclidean on the features as they are: pass unit features to re-rank by cosine.
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
    both = torch.cat([query, gallery])
    largest = _largest_squared_distance(both, torch.device(device) if device is not None else both.device)
    squared, lists = nearest(both, k1 + 1, backend=backend, device=device)
    largest[largest == 0] = 1  # all rows are the same: every distance is 0 whatever divides it
    encodings = encode(both, squared, lists, k1 + 1, round(k1 / 2) + 1, k2, 1 / largest)
    shared = jaccard(encodings, rows=len(query))[:, len(query) :]
    return Reranking(csr_array(shared), largest[: len(query)], k1, k2, lambda_)


def _largest_squared_distance(x: Tensor, place: torch.device) -> np.ndarray:
    """Per row, the largest squared Euclidean distance to any row, (N,) float64, in blocks of the product.

    Taken about the mean row: what the product rounds is then small beside the largest distance, however far from zero
    the rows lie, and scaled to about 1, so that nothing underflows.
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
