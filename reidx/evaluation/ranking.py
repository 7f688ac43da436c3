"""mAP, mINP and CMC of a ranking without sorting: the rank of a match is one more than the images ahead of it.

For each query the distances to its matches are taken exactly; then every other gallery image is placed among them by a
binary search and counted. Only the few matches are sorted, and memory holds one block of the distance matrix
at a time. Cost: 2·Q·G·D operations for the distances and Q·G·log(matches) comparisons.

The distances of a block come from a float32 matrix product, whose last bits depend on the machine and the block. Where
they cannot decide which of two images is nearer, both are computed again in float64, in one order: the numbers are those
of a stable sort by (distance, gallery index), on every machine.

A protocol may draw trials, each a ranking of some gallery images for some queries: then every number is the mean over them.
It may group images; each group is then one query or one entry of the gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidx.contracts import Summary, Trial
from reidx.contracts.protocols import Reranking
from reidx.errors import ConfigError, DataError
from reidx.evaluation.counting import count_ranks, exact_distances
from reidx.evaluation.groups import Entries, Members, NearestImages
from reidx.evaluation.matches import no_match
from reidx.evaluation.numbers import by_side, checked_columns, integers, require_inputs
from reidx.evaluation.protocols import (
    Columns,
    Known,
    Market1501,
    Protocol,
    drawn_trials,
    ignored,
    in_trial,
    measured,
    names_by_query,
    summarised,
)
from reidx.evaluation.results import Details, Evaluation, mean_over, protocol_card
from reidx.labels.compiled import in_threads
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.candidates import UNDERFLOW, exact_products

_BLOCK_BYTES = 32 << 20
_RANKS = 50


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
    reranking: Reranking | Callable[[np.ndarray, np.ndarray], Reranking] | None = None,
    details: bool = False,
    top: int = 10,
    device: str | torch.device | None = None,
) -> Evaluation:
    """Compute mAP, mINP, CMC and the protocol's metrics of the rankings of the gallery (G, D) for the queries (Q, D).

    Ids and cameras are integers, one per image. AP is the mean of the precision at each match, not interpolated; mINP
    the mean of matches / rank of the last match; both over the queries that have a match. Equal distances are ordered
    by gallery index. `protocol` is by default Market1501. `metric` is "euclidean", on the features as they are, or
    "cosine". `own` (M, 2) are pairs of positions of a query and a gallery image that are the same image, which is ignored.
    `columns` are further columns of queries and gallery, for a protocol that names them, or that groups images by them.
    `reranking` is the result of `rerank` on the same features (and, if it groups images, for the same protocol), or a
    function of the positions of a trial's queries and gallery images (or groups) that returns the re-ranking of their
    features; a protocol with trials needs the function.
    With `details` the result also holds AP and the `top` nearest images of each query.
    Distances are computed on `device`, by default that of the query features.

    Raises DataError for features that are not finite, lengths that differ, missing columns, groups of several identities or
    cameras, and when no query has a match.
    """
    rule = Market1501() if protocol is None else protocol
    query, gallery = checked(query_features, "query features"), checked(gallery_features, "gallery features")
    if query.shape[1] != gallery.shape[1]:
        raise DataError(
            f"evaluate: query features have {query.shape[1]} columns, gallery features {gallery.shape[1]}."
        )
    q_ids = integers(query_ids, len(query), "evaluate: query_ids")
    g_ids = integers(gallery_ids, len(gallery), "evaluate: gallery_ids")
    q_cams = _cameras(query_cams, len(query), "query_cams", rule)
    g_cams = _cameras(gallery_cams, len(gallery), "gallery_cams", rule)
    columns = checked_columns(columns, len(query), len(gallery), "evaluate")
    require_inputs("protocol", rule, by_side(columns), "evaluate")
    if metric not in ("euclidean", "cosine"):
        raise ConfigError(f"evaluate: unknown metric {metric!r}; choose one of euclidean, cosine.")
    entries = Entries.of(rule, (q_ids, g_ids, q_cams, g_cams), own, columns, "evaluate")
    known, own, columns = entries.known, entries.own, entries.columns
    places, images = entries.places(len(query), len(gallery)), len(query)
    query, gallery = entries.features(query, gallery)
    if metric == "cosine":
        query, gallery = unit(query, "query features"), unit(gallery, "gallery features")
    place = torch.device(device) if device is not None else query.device
    kept = top if details else None
    trials = drawn_trials(rule, known, columns)
    entries.require_one_trial(trials, "evaluate", rule.name)
    if trials is None:
        if callable(reranking):
            reranking = reranking(np.arange(len(query)), np.arange(len(gallery)))
        near = entries.members[1] if entries.nearest else None
        result = _ranked(query, gallery, known, own, columns, reranking, rule, metric, kept, place, near)
        return replace(result, details=_in_split(result.details, places, images))
    if not trials:
        raise DataError(f"evaluate: protocol {rule.name} drew no trial; draw_trials returns one at least, or None.")
    if reranking is not None and not callable(reranking):
        raise ConfigError(
            f"evaluate: protocol {rule.name} draws trials, each with its own gallery: give a function that re-ranks one."
        )
    results = []
    for number, trial in enumerate(trials, 1):
        chosen = None if reranking is None else reranking(*trial)
        x, y = (rows[torch.from_numpy(positions).to(rows.device)] for rows, positions in zip((query, gallery), trial))
        try:
            result = _ranked(x, y, *in_trial(trial, known, own, columns), chosen, rule, metric, kept, place)
        except NoMatch as error:
            raise NoMatch(f"{error} This is trial {number} of {len(trials)}.") from error
        results.append(replace(result, details=_in_split(_in_split(result.details, trial, len(query)), places, images)))
    return mean_over(results)


def _ranked(
    query: Tensor,
    gallery: Tensor,
    known: Known,
    own: np.ndarray | None,
    columns: Columns | None,
    reranking: Reranking | None,
    rule: Protocol,
    metric: str,
    top: int | None,
    place: torch.device,
    near: Members | None = None,
) -> Evaluation:
    """Evaluate one ranking, with details unless ``top`` is None; of each group in ``near`` only the nearest image counts."""
    if reranking is not None and reranking.shape != (len(query), len(gallery)):
        raise DataError(f"evaluate: the re-ranking is of shape {reranking.shape}, not {(len(query), len(gallery))}.")
    q_ids, g_ids = known[:2]
    ranked_ids = g_ids
    if near is not None:
        images = NearestImages(near)
        gallery, ranked_ids = gallery[torch.from_numpy(images.order).to(gallery.device)], g_ids[images.group]
    ap, inp = np.full(len(query), np.nan), np.full(len(query), np.nan)
    first = np.zeros(len(query), np.int64)
    nearest = np.full((len(query), min(top or 0, len(g_ids))), -1, np.int64)
    further = {name: np.full(len(query), np.nan) for name in names_by_query(rule)}
    totals = dict.fromkeys(getattr(rule, "totals", ()), np.zeros(()))
    x, y = query.cpu().numpy(), gallery.cpu().numpy()
    for start, block, error in distance_blocks(query, gallery, place):
        rows = slice(start, start + len(block))
        skip = ignored(rule, known, rows, slice(None), columns)
        skip = _without_own(skip, own, start)
        factor, offset = _reranked(reranking, rows)
        skipped = skip
        if near is not None:
            offset = images.sorted(offset)
            found = images.find(block, error, x[rows], y, factor, offset)
            skipped = images.skipped(found, skip)
        in_threads(
            count_ranks, len(block), block, error, skipped, q_ids[rows], ranked_ids, x[rows], y, factor, offset,
            ap[rows], inp[rows], first[rows], nearest[rows],
        )  # fmt: skip
        if further or totals:
            exact = np.empty(block.shape)
            in_threads(exact_distances, len(block), x[rows], y, factor, offset, exact)
            exact = exact if near is None else np.take_along_axis(exact, found, axis=1)
            found_by_name = measured(rule, exact, skip, known, rows, columns)
            for name, values in further.items():
                values[rows] = found_by_name[name]
            totals = {name: total + found_by_name[name] for name, total in totals.items()}
    if near is not None:
        nearest = np.where(nearest < 0, -1, images.order[nearest])
    valid = first > 0
    if not valid.any():
        raise NoMatch(no_match(rule, known, own, columns))
    cmc = np.cumsum(np.bincount(first[valid] - 1, minlength=_RANKS))[:_RANKS] / valid.sum()
    summary = summarised(rule, {**further, **totals}) if further or totals else Summary({})
    card = {
        **protocol_card(rule, further, valid),
        "protocol_facts": dict(summary.facts),
        "metric": metric,
        "reranking": None if reranking is None else reranking.card(),
        "queries": len(query),
        "valid_queries": int(valid.sum()),
        "queries_without_match": int((~valid).sum()),
        "queries_in_gallery": 0 if own is None else len(np.unique(own[:, 0])),
        "gallery": len(g_ids),
        "gallery_junk": int((g_ids == -1).sum()),
    }
    metrics = {"mAP": float(ap[valid].mean()), "mINP": float(inp[valid].mean())}
    metrics |= {f"rank-{k}": float(cmc[k - 1]) for k in (1, 5, 10)}
    metrics |= summary.metrics
    return Evaluation(metrics, cmc, card, None if top is None else Details(ap, first, nearest))


class NoMatch(DataError):
    """No query of a ranking has a match."""


def _in_split(details: Details | None, trial: Trial, queries: int) -> Details | None:
    """Details of a trial, or of groups, for all queries of the split, with positions in its whole gallery."""
    if details is None:
        return None
    whole = Details(
        np.full(queries, np.nan), np.zeros(queries, np.int64), np.full((queries, details.top.shape[1]), -1, np.int64)
    )
    whole.ap[trial.queries], whole.first_match[trial.queries] = details.ap, details.first_match
    whole.top[trial.queries] = np.where(details.top < 0, -1, trial.gallery[details.top])
    return whole


def _without_own(skip: np.ndarray, own: np.ndarray | None, start: int) -> np.ndarray:
    """Add each query's own image to ``skip`` (B, G), the mask of the queries from ``start`` on."""
    if own is None or not len(own):
        return skip
    skip = np.array(skip, order="C")  # copy, because a rule may return a view
    here = own[(own[:, 0] >= start) & (own[:, 0] < start + len(skip))]
    skip[here[:, 0] - start, here[:, 1]] = True
    return skip


def _cameras(values: Any, count: int, name: str, rule: Protocol) -> np.ndarray:
    """The cameras as integers; no cameras (None, or None for each image) are camera -1 if the protocol needs none."""
    if values is None or (len(values) and all(value is None for value in values)):
        if rule.camera_filter:
            raise DataError(
                f"evaluate: protocol {rule.name} ignores matches of the query's own camera, but {name} is None: "
                "the data set has no cameras. Set evaluate.protocol: NoCameraFilter."
            )
        return np.full(count, -1, np.int64)
    return integers(values, count, f"evaluate: {name}")


def distance_blocks(
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
