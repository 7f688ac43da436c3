"""k-reciprocal re-ranking in blocks of queries; memory grows with the number of images, not of pairs.

Source: Zhong et al., CVPR 2017. Queries and gallery are encoded together as in `reidx.labels.distances.jaccard`, with lists of
k1 + 1 images (including the image itself) and with squared distances divided by the largest in the row, as for the numbers
published in the paper. The re-ranked distance is  (1 - lambda) · Jaccard + lambda · that normalised squared distance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.evaluation.reranking import JaccardReranking
from reidx.labels.features import checked
from reidx.labels.neighbours.candidates import exact_products
from reidx.labels.neighbours.encoding import encode
from reidx.labels.neighbours.exact import nearest

_ENTRY_BYTES = 32  # peak memory per entry of the encodings: before and after averaging, in parts and stacked
_PAIR_BYTES = 24  # memory per entry of the neighbour lists: index, squared distance, reciprocal lists


class KReciprocal:
    """k-reciprocal re-ranking, by default with the paper's values.

    `k1` is the number of neighbours, the image itself not counted, that may enter its encoding, `k2` the number of neighbours,
    the image itself counted, whose encodings are averaged (1: none), `lambda_` the weight of the original distance. The
    distance is the squared Euclidean one of the features.
    """

    def __init__(self, k1: int = 20, k2: int = 6, lambda_: float = 0.3) -> None:
        if not 1 <= k2 <= k1 + 1 or not 0 <= lambda_ <= 1:
            raise ConfigError(
                f"KReciprocal: k1={k1}, k2={k2}, lambda_={lambda_}; needs 1 <= k2 <= k1 + 1 and 0 <= lambda_ <= 1."
            )
        self.k1, self.k2, self.lambda_ = k1, k2, lambda_

    def __call__(self, query_features: Tensor, gallery_features: Tensor) -> JaccardReranking:
        """Return the re-ranking of a gallery (G, D) for queries (Q, D).

        Raises DataError for features that are not finite or differ in width.
        """
        both, largest = stacked_features(query_features, gallery_features)
        squared, lists = nearest(both, self.k1 + 1)
        encodings = encode(both, squared, lists, self.k1 + 1, round(self.k1 / 2) + 1, self.k2, 1 / largest)
        settings = {"method": "k-reciprocal", "k1": self.k1, "k2": self.k2}
        return JaccardReranking.of(encodings, largest, len(query_features), self.lambda_, **settings)

    def bytes_needed(self, images: int) -> float:
        """Return an upper bound of the memory besides the features, for queries and gallery together.

        An encoding has at most (k1 + 1) · (round(k1 / 2) + 2) entries, after averaging k2 times as many.
        """
        width = min(self.k1 + 1, images)
        entries = min(width * (round(self.k1 / 2) + 2) * self.k2, images)
        return float(images) * (_ENTRY_BYTES * entries + _PAIR_BYTES * width)


def stacked_features(query_features: Tensor, gallery_features: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return the rows (Q + G, D) of both, and the largest squared distance of each to any of them, (Q + G,) float64.

    The largest distances are 1 if all rows are equal. Raises DataError for features that are not finite or differ in width.
    """
    query, gallery = checked(query_features, "query features"), checked(gallery_features, "gallery features")
    if query.shape[1] != gallery.shape[1]:
        raise DataError(f"rerank: query features have {query.shape[1]} columns, gallery features {gallery.shape[1]}.")
    both = torch.cat([query, gallery])
    largest = _largest_squared_distance(both)
    largest[largest == 0] = 1  # all rows are equal, and all distances 0
    return both, largest


def _largest_squared_distance(x: Tensor) -> np.ndarray:
    """Return the largest squared Euclidean distance of each row to any row, (N,) float64; computed in blocks.

    The mean row is subtracted, so that rounding errors are small compared with the largest distance even if all rows are far
    from zero; values are scaled to about 1, so that nothing underflows.
    """
    if not len(x):
        return np.zeros(0)
    y = x - x.mean(dim=0, dtype=torch.float64).float()
    size = y.abs().max().clamp_(min=2.0**-120)
    y /= size
    square = (y * y).sum(dim=1)
    rows = max(16, (32 << 20) // (4 * max(len(y), 1)))
    with exact_products():
        parts = [torch.addmm(square, part, y.T, alpha=-2).amax(dim=1) for part in y.split(rows)]
    return ((torch.cat(parts) + square).clamp_(min=0).double() * float(size) ** 2).cpu().numpy()
