"""Re-ranking: calls of a re-ranker on the features as they are compared, and re-ranked distances from sparse encodings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from reidx.contracts import Trial, named_inputs
from reidx.contracts.protocols import Reranker, Reranking
from reidx.evaluation.groups import SIDES, ranked_groups
from reidx.evaluation.numbers import by_side, checked_columns, integers, require_inputs
from reidx.evaluation.protocols import Columns
from reidx.labels.distances.jaccard import jaccard_between
from reidx.labels.features import checked, unit
from reidx.registry.seam import call

Cameras = tuple[np.ndarray, np.ndarray]
"""Cameras of the queries (Q,) and of the gallery (G,)."""


def rerank(
    reranker: Reranker,
    query_features: Tensor | np.ndarray,
    gallery_features: Tensor | np.ndarray,
    metric: str = "euclidean",
    *,
    cameras: Cameras | None = None,
    columns: Columns | None = None,
    trial: Trial | None = None,
    protocol: Any = None,
) -> Reranking:
    """Compute the re-ranking of a gallery (G, D) for queries (Q, D), an argument of `evaluate` on the same images.

    `metric` is that of `evaluate`: "euclidean", on the features as they are, or "cosine", on unit features. The re-ranker gets
    those of the cameras and `columns` that it names. With `trial` only its queries and gallery images count. If `protocol`
    groups images, groups are re-ranked by their mean features; where the nearest image of a gallery group counts, all gallery
    images are. Raises DataError for features that are not finite, and for groups whose images differ in an input.
    """
    rows = checked(query_features, "query features"), checked(gallery_features, "gallery features")
    columns = checked_columns(columns, len(rows[0]), len(rows[1]), "rerank")
    known = by_side(columns)
    for place, side in enumerate(SIDES):
        if cameras is not None and cameras[place] is not None:
            known[f"{side}_cams"] = integers(cameras[place], len(rows[place]), f"rerank: {side}_cams")
    require_inputs("reranker", reranker, known, "rerank")
    known = named_inputs(reranker.__call__, known)
    features, members = list(rows), ranked_groups(protocol, columns, "rerank")
    for place, of in enumerate(members):
        if of is not None:
            features[place] = of.means(features[place])
            known |= {name: of.shared(its, name, "rerank") for name, its in known.items() if name.startswith(of.side)}
    for place, side in enumerate(SIDES):
        if trial is not None:
            features[place] = features[place][torch.from_numpy(trial[place]).to(features[place].device)]
            known |= {name: its[trial[place]] for name, its in known.items() if name.startswith(side)}
        if metric == "cosine":
            features[place] = unit(features[place], f"{side} features")
    return _Called(reranker, call("reranker", reranker, "__call__", reranker, *features, **known))


@dataclass(frozen=True)
class _Called:
    """A re-ranking whose errors name the component that made it."""

    reranker: Reranker
    made: Reranking

    @property
    def shape(self) -> tuple[int, int]:
        return self.made.shape

    def block(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return call("reranker", self.reranker, "block", self.made.block, rows)

    def card(self) -> dict[str, Any]:
        return call("reranker", self.reranker, "card", self.made.card)


@dataclass(frozen=True)
class JaccardReranking:
    """Re-ranked distances (1 - lambda) · Jaccard + lambda · normalised squared distance, from encodings of all images."""

    queries: csr_array  # (Q, Q + G) encodings
    gallery: csc_array  # (G, Q + G) encodings
    largest: np.ndarray  # (Q,) the query's largest squared distance to any image, query or gallery
    lambda_: float
    settings: Mapping[str, Any]
    """The method and its other settings, for a result's card."""

    @classmethod
    def of(cls, encodings: csr_array, largest: np.ndarray, queries: int, lambda_: float, **settings: Any) -> JaccardReranking:
        """Split the encodings (Q + G, Q + G) and largest squared distances (Q + G,) of queries, then gallery."""
        return cls(encodings[:queries], encodings[queries:].tocsc(), largest[:queries], lambda_, settings)

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
        """Return the method and its settings, for a result's card."""
        return {**self.settings, "lambda": self.lambda_}
