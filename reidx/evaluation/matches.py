"""Queries with and without a match in the gallery under a protocol, found from ids and cameras before any feature."""

from __future__ import annotations

import numpy as np

from reidx.evaluation.protocols import Columns, Known, Protocol, ignored
from reidx.registry.seam import full_checks

_PAIRS = 64
"""Pairs of one image in a call of a protocol, of whose square mask only the diagonal is used."""


def has_match(rule: Protocol, known: Known, own: np.ndarray | None = None, columns: Columns | None = None) -> np.ndarray:
    """Mask (Q,) of the queries with a gallery image of their identity that counts.

    ``known`` are the ids of queries and gallery, then their cameras. ``own`` (M,2) are pairs of positions of a query and a
    gallery image that are the same image, which is no match. The rule is applied to the images of one identity at a time,
    which keeps the cost low.
    """
    q_ids, g_ids = known[:2]
    counts = np.zeros(len(q_ids), np.int64)
    by_query, by_gallery = np.argsort(q_ids, kind="stable"), np.argsort(g_ids, kind="stable")
    for number, who in enumerate(np.intersect1d(q_ids, g_ids)):
        queries, images = (
            order[np.searchsorted(ids, who, "left", order) : np.searchsorted(ids, who, "right", order)]
            for order, ids in ((by_query, q_ids), (by_gallery, g_ids))
        )
        with full_checks(number == 0):
            counts[queries] = (~ignored(rule, known, queries, images, columns)).sum(axis=1)
    np.subtract.at(counts, own_matches(rule, known, own, columns)[:, 0], 1)
    return counts > 0


def own_matches(rule: Protocol, known: Known, own: np.ndarray | None = None, columns: Columns | None = None) -> np.ndarray:
    """The pairs of ``own`` (M,2) that the rule alone would count as matches, so that they must be excluded."""
    if own is None:
        return np.zeros((0, 2), np.int64)
    kept = known[0][own[:, 0]] == known[1][own[:, 1]]
    for start in range(0, len(own), _PAIRS):
        queries, images = own[start : start + _PAIRS].T
        skip = ignored(rule, known, queries, images, columns)
        kept[start : start + _PAIRS] &= ~np.diagonal(skip)
    return own[kept]


def no_match(rule: Protocol, known: Known, own: np.ndarray | None = None, columns: Columns | None = None) -> str:
    """The message for queries without any match: the contents of both sides, and the remedy."""
    q_ids, g_ids, q_cams, g_cams = known

    def few(values: np.ndarray) -> str:
        distinct = np.unique(values)
        return f"{', '.join(map(str, distinct[:5]))}{', …' if len(distinct) > 5 else ''} ({len(distinct)} in all)"

    common = np.intersect1d(q_ids, g_ids[g_ids != -1])
    seen = (
        f"Queries: identities {few(q_ids)}, cameras {few(q_cams)}. "
        f"Gallery: identities {few(g_ids)}, cameras {few(g_cams)}."
    )
    if not len(common):
        advice = (
            "No identity is on both sides: were query and gallery identities renumbered separately, "
            "or is one of them another split?"
        )
    elif lost := len(np.unique(own_matches(rule, known, own, columns)[:, 0])):
        advice = (
            f"{lost} of {len(q_ids)} queries are gallery images, too, and an image is not its own match: give the gallery "
            "other images of these people."
        )
    elif rule.camera_filter and len(_seen_by(q_ids, q_cams, common) | _seen_by(g_ids, g_cams, common)) == len(common):
        advice = (
            f"{len(common)} identities are on both sides, but never under two cameras; protocol {rule.name} ignores "
            "matches of the query's own camera. If the data set has no cameras (or one), set evaluate.protocol: NoCameraFilter."
        )
    else:
        advice = f"{len(common)} identities are on both sides, but protocol {rule.name} ignores every match of them."
    return f"evaluate: no query has a match in the gallery. {seen} {advice}"


def _seen_by(ids: np.ndarray, cams: np.ndarray, people: np.ndarray) -> set[tuple[int, int]]:
    """The cameras of some people, as pairs of identity and camera."""
    chosen = np.isin(ids, people)
    return set(zip(ids[chosen].tolist(), cams[chosen].tolist()))
