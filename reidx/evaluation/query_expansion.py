"""Query expansion: a second ranking by the mean of a query and its nearest gallery images.

Sources: average query expansion, Chum et al., ICCV 2007; alpha query expansion, Radenovic et al., TPAMI 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.evaluation.counting import exact_distances, nearest_images
from reidx.evaluation.ranking import distance_blocks
from reidx.labels.compiled import in_threads
from reidx.labels.features import checked


class AlphaQueryExpansion:
    """Second ranking by a weighted mean of query and nearest images.

    The query q becomes q + sum of max(cos(q, x), 0)^alpha · x over its ``k`` nearest gallery images x, scaled to the length of
    q. The gallery is then ranked by the squared Euclidean distance from it. ``alpha: 0`` is ``AverageQueryExpansion``. The k
    images are the nearest of the whole gallery of a trial, also those that the protocol ignores for a query, because their
    labels are not known to the method.
    """

    def __init__(self, k: int = 5, alpha: float = 3.0) -> None:
        if k < 1 or alpha < 0:
            raise ConfigError(f"{type(self).__name__}: k={k}, alpha={alpha}; needs k >= 1 and alpha >= 0.")
        self.k, self.alpha = k, alpha

    def __call__(self, query_features: Tensor, gallery_features: Tensor) -> ExpandedQueries:
        """Return the re-ranking of a gallery (G, D) for queries (Q, D).

        Raises DataError for features that are not finite or differ in width.
        """
        query, gallery = checked(query_features, "query features"), checked(gallery_features, "gallery features")
        if query.shape[1] != gallery.shape[1]:
            raise DataError(f"rerank: query features have {query.shape[1]} columns, gallery features {gallery.shape[1]}.")
        places = np.full((len(query), min(self.k, len(gallery))), -1, np.int64)
        x, y = query.cpu().numpy(), gallery.cpu().numpy()
        for start, block, error in distance_blocks(query, gallery, query.device):
            rows = slice(start, start + len(block))
            in_threads(nearest_images, len(block), block, error, x[rows], y, places[rows])
        return ExpandedQueries(_expanded(x, y, places, self.alpha), y, self.card())

    def card(self) -> dict[str, Any]:
        """Return the method and its settings."""
        return {"method": "alpha query expansion", "k": self.k, "alpha": self.alpha}


class AverageQueryExpansion(AlphaQueryExpansion):
    """Second ranking by the mean of query and nearest images.

    The query becomes the mean of itself and its ``k`` nearest gallery images, scaled to its length.
    """

    def __init__(self, k: int = 5) -> None:
        super().__init__(k, alpha=0)

    def card(self) -> dict[str, Any]:
        """Return the method and its settings."""
        return {"method": "average query expansion", "k": self.k}


def _expanded(x: np.ndarray, y: np.ndarray, places: np.ndarray, alpha: float) -> np.ndarray:
    """Return the expanded queries (Q, D) float32 of ``x`` (Q, D), by their nearest ``places`` (Q, k) in ``y`` (G, D)."""
    made = np.empty_like(x)
    for q, row in enumerate(x.astype(np.float64)):
        images, length = y[places[q]].astype(np.float64), np.linalg.norm(row)
        lengths = np.maximum(np.linalg.norm(images, axis=1) * length, np.finfo(np.float64).tiny)
        weights = np.maximum(images @ row / lengths, 0) ** alpha
        whole = row + weights @ images
        size = np.linalg.norm(whole)
        made[q] = whole * (length / size) if size > 0 else row
    return made


@dataclass(frozen=True)
class ExpandedQueries:
    """Re-ranked distances: squared Euclidean distances (Q, G) between expanded queries (Q, D) and the gallery (G, D)."""

    queries: np.ndarray
    gallery: np.ndarray
    settings: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of gallery images."""
        return len(self.queries), len(self.gallery)

    def block(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return factors (B,), which are 0, and offsets (B, G): the offset is the whole re-ranked distance."""
        x = self.queries[rows]
        exact = np.empty((len(x), len(self.gallery)))
        in_threads(exact_distances, len(x), x, self.gallery, np.ones(len(x)), np.zeros((len(x), 0), np.float32), exact)
        return np.zeros(len(x)), exact.astype(np.float32)

    def card(self) -> dict[str, Any]:
        """Return the method and its settings, for a result's card."""
        return dict(self.settings)
