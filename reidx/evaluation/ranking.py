"""mAP, mINP and CMC of a ranking without sorting: the rank of a match is one more than the images ahead of it.

For each query the distances to its matches are taken exactly; then every other gallery image is placed among them by a
binary search and counted. Only the few matches are sorted, and memory holds one block of the distance matrix
at a time. Cost: 2·Q·G·D operations for the distances and Q·G·log(matches) comparisons.

The distances of a block come from a float32 matrix product, whose last bits depend on the machine and the block. Where
they cannot decide which of two images is nearer, both are computed again in float64, in one order: the numbers are those
of a stable sort by (distance, gallery index), on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.evaluation.counting import count_ranks
from reidx.evaluation.protocols import Columns, Market1501, Protocol, ignored, no_match
from reidx.evaluation.reranking import Reranking
from reidx.labels.compiled import in_threads
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.candidates import UNDERFLOW, exact_products

_BLOCK_BYTES = 32 << 20
_RANKS = 50


@dataclass(frozen=True)
class Details:
    """Results of each query, in the order of the queries."""

    ap: np.ndarray  # (Q,) average precision, NaN where the query has no match
    first_match: np.ndarray  # (Q,) rank of the first match, 1 is best, 0 where there is none
    top: np.ndarray  # (Q, k) gallery indices, nearest first, without the ignored; -1 where there are fewer


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one ranking, fractions between 0 and 1, and the card of their conditions."""

    mAP: float
    mINP: float
    cmc: np.ndarray  # (50,), rank-1 at index 0
    valid_queries: int
    card: dict[str, Any] = field(repr=False)
    details: Details | None = field(default=None, repr=False)


def evaluate(
    query_features: Tensor | np.ndarray,
    gallery_features: Tensor | np.ndarray,
    query_ids: Any,
    gallery_ids: Any,
    query_cams: Any = None,
    gallery_cams: Any = None,
    protocol: Protocol | None = None,
    metric: str = "euclidean",
    *,
    own: np.ndarray | None = None,
    columns: Columns | None = None,
    reranking: Reranking | None = None,
    details: bool = False,
    top: int = 10,
    device: str | torch.device | None = None,
) -> Evaluation:
    """Compute mAP, mINP and CMC of the rankings of the gallery (G, D) for the queries (Q, D).

    Ids and cameras are integers, one per image. AP is the mean of the precision at each match, not interpolated; mINP
    the mean of matches / rank of the last match; both over the queries that have a match. Equal distances are ordered
    by gallery index. `protocol` is by default Market1501. `metric` is "euclidean", on the features as they are, or
    "cosine". `own` (M, 2) are pairs of positions of a query and a gallery image that are the same image, which is ignored.
    `columns` are further columns of queries and gallery, for a protocol that names them.
    `reranking` is the result of `rerank` on the same features. With `details` the result also holds AP and the `top`
    nearest images of each query.
    Distances are computed on `device`, by default that of the query features.

    Raises DataError for features that are not finite, lengths that differ, and when no query has a match.
    """
    rule = Market1501() if protocol is None else protocol
    query, gallery = checked(query_features, "query features"), checked(gallery_features, "gallery features")
    if query.shape[1] != gallery.shape[1]:
        raise DataError(
            f"evaluate: query features have {query.shape[1]} columns, gallery features {gallery.shape[1]}."
        )
    q_ids = _integers(query_ids, len(query), "query_ids")
    g_ids = _integers(gallery_ids, len(gallery), "gallery_ids")
    q_cams = _cameras(query_cams, len(query), "query_cams", rule)
    g_cams = _cameras(gallery_cams, len(gallery), "gallery_cams", rule)
    if metric not in ("euclidean", "cosine"):
        raise ConfigError(f"evaluate: unknown metric {metric!r}; choose one of euclidean, cosine.")
    if metric == "cosine":
        query, gallery = unit(query, "query features"), unit(gallery, "gallery features")
    if reranking is not None and reranking.shape != (len(query), len(gallery)):
        raise DataError(f"evaluate: the re-ranking is of shape {reranking.shape}, not {(len(query), len(gallery))}.")

    ap, inp = np.full(len(query), np.nan), np.full(len(query), np.nan)
    first = np.zeros(len(query), np.int64)
    nearest = np.full((len(query), min(top, len(gallery)) if details else 0), -1, np.int64)
    place = torch.device(device) if device is not None else query.device
    x, y = query.cpu().numpy(), gallery.cpu().numpy()
    for start, block, error in _distance_blocks(query, gallery, place):
        rows = slice(start, start + len(block))
        skip = ignored(rule, (q_ids, g_ids, q_cams, g_cams), rows, slice(None), columns)
        skip = _without_own(skip, own, start)
        factor, offset = _reranked(reranking, rows)
        in_threads(
            count_ranks, len(block), block, error, skip, q_ids[rows], g_ids, x[rows], y, factor, offset,
            ap[rows], inp[rows], first[rows], nearest[rows],
        )  # fmt: skip
    valid = first > 0
    if not valid.any():
        raise DataError(no_match(rule, q_ids, g_ids, q_cams, g_cams, own, columns))
    histogram = np.bincount(first[valid] - 1, minlength=_RANKS)
    card = {
        "protocol": rule.name,
        "protocol_version": rule.version,
        "camera_filter": rule.camera_filter,
        "junk": rule.junk,
        "ap": "mean of the precision at each match, not interpolated",
        "denominator": "queries with at least one match",
        "ties": "by gallery index",
        "metric": metric,
        "reranking": None if reranking is None else reranking.card(),
        "queries": len(query),
        "valid_queries": int(valid.sum()),
        "queries_without_match": int((~valid).sum()),
        "queries_in_gallery": 0 if own is None else len(np.unique(own[:, 0])),
        "gallery": len(gallery),
        "gallery_junk": int((g_ids == -1).sum()),
    }
    return Evaluation(
        mAP=float(ap[valid].mean()),
        mINP=float(inp[valid].mean()),
        cmc=np.cumsum(histogram)[:_RANKS] / valid.sum(),
        valid_queries=int(valid.sum()),
        card=card,
        details=Details(ap, first, nearest) if details else None,
    )


def _without_own(skip: np.ndarray, own: np.ndarray | None, start: int) -> np.ndarray:
    """Add each query's own image to ``skip`` (B, G), the mask of the queries from ``start`` on."""
    if own is None or not len(own):
        return skip
    skip = np.array(skip, order="C")  # copy, because a rule may return a view
    here = own[(own[:, 0] >= start) & (own[:, 0] < start + len(skip))]
    skip[here[:, 0] - start, here[:, 1]] = True
    return skip


def _integers(values: Any, count: int, name: str) -> np.ndarray:
    array = torch.as_tensor(values).cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        raise DataError(
            f"evaluate: {name} must be {count} integers, one per image; got {array.dtype} of shape {array.shape}."
        )
    if array.dtype.kind == "u" and count and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"evaluate: {name} holds {array.max()}, which is beyond int64. Number them from 0.")
    return array.astype(np.int64)


def _cameras(values: Any, count: int, name: str, rule: Protocol) -> np.ndarray:
    """The cameras as integers; no cameras (None, or None for each image) are camera -1 if the protocol needs none."""
    if values is None or (len(values) and all(value is None for value in values)):
        if rule.camera_filter:
            raise DataError(
                f"evaluate: protocol {rule.name} ignores matches of the query's own camera, but {name} is None: "
                "the data set has no cameras. Set evaluate.protocol: NoCameraFilter."
            )
        return np.full(count, -1, np.int64)
    return _integers(values, count, name)


def _distance_blocks(
    query: Tensor, gallery: Tensor, place: torch.device
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Blocks of squared distances (B, G) float32, each with its first row and its rows' rounding error at most (B,)."""
    y = gallery.to(place)
    y_square = (y * y).sum(dim=1) if len(y) < 4096 else torch.cat([(b * b).sum(dim=1) for b in y.split(4096)])
    longest = float(y_square.max().sqrt()) if len(y) else 0.0
    rows = max(16, _BLOCK_BYTES // (4 * max(len(y), 1)))
    for start in range(0, len(query), rows):
        x = query[start : start + rows].to(place)
        x_square = (x * x).sum(dim=1)
        with exact_products():
            block = torch.addmm(y_square, x, y.T, alpha=-2).add_(x_square[:, None])
        error = UNDERFLOW + 2 * (x.shape[1] + 8) * 2.0**-24 * (x_square.sqrt().double() + longest) ** 2
        yield start, block.cpu().numpy(), error.cpu().numpy()


def _reranked(reranking: Reranking | None, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Factor (B,) and offset (B, G or 0) from squared distances d of the block to ranked ones: factor · d + offset."""
    if reranking is None:
        return np.ones(rows.stop - rows.start), np.zeros((rows.stop - rows.start, 0), np.float32)
    factor, offset = reranking.block(rows)
    return factor, offset
