"""Protocols: the gallery images ignored for each query, and their description on a result's card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reidx.contracts import named_inputs
from reidx.registry.seam import call, full_checks

Columns = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
"""Further columns of the queries (Q,) and of the gallery (G,), by name."""

JUNK = -1  # Market-1501's identity number for boxes that show no person well enough to count either way


@dataclass(frozen=True)
class Protocol:
    """The rule of evaluation of a ranking; a subclass overrides `ignored`.

    `version` changes with every change to the metrics of a ranking; results with different versions are not comparable.
    """

    name: str
    version: str
    camera_filter: bool
    junk: str = "gallery images of identity -1 are ignored; distractors (of identities without a query) stay as negatives"

    def ignored(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> np.ndarray:
        """Bool (Q, G): gallery images that neither help nor harm the query.

        A subclass may add keyword arguments ``query_NAME`` and ``gallery_NAME``, which get the column NAME of the data set.
        """
        skip = np.broadcast_to(gallery_ids == JUNK, (len(query_ids), len(gallery_ids)))
        if not self.camera_filter:
            return skip
        return skip | ((query_ids[:, None] == gallery_ids) & (query_cams[:, None] == gallery_cams))


class Market1501(Protocol):
    """The usual protocol: the query's person in its own camera is ignored.

    Gallery images of the query's own identity *and* camera are ignored (Market-1501 and all that follow it).
    """

    cameras: ClassVar[str] = "required"

    def __init__(self) -> None:
        super().__init__("market1501", "1", camera_filter=True)


class NoCameraFilter(Protocol):
    """Every gallery image counts; for data sets without known cameras."""

    def __init__(self) -> None:
        super().__init__("no_camera_filter", "1", camera_filter=False)


def ignored(
    rule: Protocol, known: tuple[np.ndarray, ...], queries: Any, images: Any, columns: Columns | None = None
) -> np.ndarray:
    """Bool (Q, G) of ``rule`` for some of the queries and gallery images, selected by an index.

    ``known`` are the ids of queries and gallery, then their cameras; ``columns`` are passed by name.
    """
    query_ids, gallery_ids, query_cams, gallery_cams = known
    pairs = query_ids[queries], gallery_ids[images], query_cams[queries], gallery_cams[images]
    by_query, by_gallery = ({}, {}) if columns is None else columns
    whole = {f"query_{name}": (column, queries) for name, column in by_query.items()}
    whole |= {f"gallery_{name}": (column, images) for name, column in by_gallery.items()}
    named = {name: column[rows] for name, (column, rows) in named_inputs(rule.ignored, whole).items()}
    return call("protocol", rule, "ignored", rule.ignored, *pairs, **named)


def has_match(
    rule: Protocol,
    q_ids: np.ndarray,
    g_ids: np.ndarray,
    q_cams: np.ndarray,
    g_cams: np.ndarray,
    own: np.ndarray | None = None,
    columns: Columns | None = None,
) -> np.ndarray:
    """Mask (Q,) of the queries with a gallery image of their identity that counts.

    ``own`` (M,2) are pairs of positions of a query and a gallery image that are the same image, which is no match. The rule
    is applied to the images of one identity at a time, which keeps the cost low.
    """
    counts = np.zeros(len(q_ids), np.int64)
    by_query, by_gallery = np.argsort(q_ids, kind="stable"), np.argsort(g_ids, kind="stable")
    for number, who in enumerate(np.intersect1d(q_ids, g_ids)):
        queries, images = (
            order[np.searchsorted(ids, who, "left", order) : np.searchsorted(ids, who, "right", order)]
            for order, ids in ((by_query, q_ids), (by_gallery, g_ids))
        )
        with full_checks(number == 0):
            counts[queries] = (~ignored(rule, (q_ids, g_ids, q_cams, g_cams), queries, images, columns)).sum(axis=1)
    np.subtract.at(counts, own_matches(rule, q_ids, g_ids, q_cams, g_cams, own, columns)[:, 0], 1)
    return counts > 0


def own_matches(
    rule: Protocol,
    q_ids: np.ndarray,
    g_ids: np.ndarray,
    q_cams: np.ndarray,
    g_cams: np.ndarray,
    own: np.ndarray | None = None,
    columns: Columns | None = None,
) -> np.ndarray:
    """The pairs of ``own`` (M,2) that the rule alone would count as matches, so that they must be excluded."""
    if own is None:
        return np.zeros((0, 2), np.int64)
    kept = [
        q_ids[q] == g_ids[g] and not ignored(rule, (q_ids, g_ids, q_cams, g_cams), [q], [g], columns)[0, 0]
        for q, g in own
    ]
    return own[np.array(kept, bool)]


def no_match(
    rule: Protocol,
    q_ids: np.ndarray,
    g_ids: np.ndarray,
    q_cams: np.ndarray,
    g_cams: np.ndarray,
    own: np.ndarray | None = None,
    columns: Columns | None = None,
) -> str:
    """The message for queries without any match: the contents of both sides, and the remedy."""

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
    elif lost := len(np.unique(own_matches(rule, q_ids, g_ids, q_cams, g_cams, own, columns)[:, 0])):
        advice = (
            f"{lost} of {len(q_ids)} queries are gallery images, too, and an image is not its own match: give the gallery "
            "other images of these people."
        )
    elif rule.camera_filter:
        advice = (
            f"{len(common)} identities are on both sides, but never under two cameras; protocol {rule.name} ignores "
            "matches of the query's own camera. If the data set has no cameras (or one), set evaluate.protocol: NoCameraFilter."
        )
    else:
        advice = f"Protocol {rule.name} ignores every match."
    return f"evaluate: no query has a match in the gallery. {seen} {advice}"
