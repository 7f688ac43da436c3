"""Camera-aware k-reciprocal re-ranking (Chen et al., CVPR 2024, and the released code) in blocks of queries.

Queries and gallery are encoded together (`reidx_ca_jaccard.encoding`). With the squared distance s(i, j) of two images and its
square divided by the largest of the row, n(i, j) = s(i, j)² / max_t s(i, t)², the exponents are n. The re-ranked distance is

    (1 - lambda) · d + lambda · n,  d = 1 - c / (2 - c),  c = sum_t min(W(i, t), W(j, t))

Memory grows with the number of images, not of pairs. Cost, besides the encodings: Q·G·D multiplications in float64 for n, and
the last step of `reidx.evaluation.KReciprocal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidx.errors import ConfigError
from reidx.evaluation.k_reciprocal import stacked_features
from reidx.evaluation.reranking import JaccardReranking
from reidx_ca_jaccard.encoding import Lengths, encode

_ENTRY_BYTES = 40  # peak memory per entry of the encodings: the product and its sorted copy, then the split
_COLUMNS = 4096  # gallery images whose float64 features are in memory at the same time
_PAIR_BYTES = 60  # memory per entry of the neighbour lists: distances, indices, weights and the matrices made of them


class CameraAwareKReciprocal:
    """k-reciprocal re-ranking with lists within and across cameras.

    The defaults are the authors' values. The lists are those of the distance `CAJaccard`, over queries and gallery together:
    the image itself and its `k1_intra` nearest images of the same camera, and the `k1_inter` + 1 nearest of the others. The
    encodings of the first `k2_intra` and `k2_inter` images are averaged. `lambda_` is the weight of the original distance, the
    fourth power of the Euclidean one, divided by the query's largest. Raises DataError for features that are not finite and
    for images without a camera.
    """

    cameras = "required"

    def __init__(
        self, k1_intra: int = 5, k1_inter: int = 20, k2_intra: int = 3, k2_inter: int = 3, lambda_: float = 0.3
    ) -> None:
        if not 0 <= lambda_ <= 1:
            raise ConfigError(f"CameraAwareKReciprocal: lambda_={lambda_}; needs 0 <= lambda_ <= 1.")
        self.lengths, self.lambda_ = Lengths(k1_intra, k1_inter, k2_intra, k2_inter).check(self), lambda_

    def __call__(
        self, query_features: Tensor, gallery_features: Tensor, *, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> FourthPowerReranking:
        """Return the re-ranking of a gallery (G, D) under cameras (G,) for queries (Q, D) under cameras (Q,)."""
        both, largest = stacked_features(query_features, gallery_features)
        cameras = np.concatenate([query_cams, gallery_cams])
        encodings = encode(both, cameras, self.lengths, lambda squared: (squared / largest[:, None]) ** 2)
        settings = {"method": "camera-aware k-reciprocal", **self.lengths._asdict()}
        made = JaccardReranking.of(encodings, largest, len(query_features), self.lambda_, **settings)
        return FourthPowerReranking(made, query_features, gallery_features)

    def bytes_needed(self, images: int) -> float:
        """Return an upper bound of the memory besides the features, for queries and gallery together.

        An encoding has at most k1_intra + k1_inter + 2 entries, after averaging k2_intra + k2_inter times as many.
        """
        width = min(self.lengths.k1_intra + self.lengths.k1_inter + 2, images)
        entries = min(width * (self.lengths.k2_intra + self.lengths.k2_inter), images)
        return float(images) * (_ENTRY_BYTES * entries + _PAIR_BYTES * width)


@dataclass(frozen=True)
class FourthPowerReranking:
    """Re-ranked distances whose original distance is the fourth power of the Euclidean one."""

    jaccard: JaccardReranking
    queries: Tensor
    gallery: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of gallery images."""
        return self.jaccard.shape

    def block(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return factors of 0 (B,), as the squared distance is not part of the re-ranked one, and the latter (B, G)."""
        factor, offset = self.jaccard.block(rows)
        share = torch.from_numpy(factor / self.jaccard.largest[rows])
        x = self.queries[rows].double()
        for start in range(0, len(self.gallery), _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            y = self.gallery[columns].double()
            squared = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
            offset[:, columns] += (share[:, None] * squared.clamp_(min=0) ** 2).numpy()
        return np.zeros_like(factor), offset

    def card(self) -> dict[str, Any]:
        """Return the method and its settings, for a result's card."""
        return self.jaccard.card()
