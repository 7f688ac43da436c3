"""The recall of an approximate search, measured against the exact one on rows of the gallery, and the effort for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reidx.index.structures import blocks, efforts, search, search_exactly

AT = 10
"""Number of neighbours that are compared; fewer in a smaller gallery."""

SAMPLED = 200
"""Rows that choose the effort, and as many others that measure its recall."""


@dataclass(frozen=True)
class Recall:
    """The share of the true ``at`` nearest rows that a search with ``effort`` finds, measured on ``queries`` rows."""

    value: float
    at: int
    queries: int
    effort: int


def measure_recall(index: Any, kind: str, aim: float) -> Recall:
    """Choose the least effort with the recall ``aim`` on sampled rows, and measure its recall on others.

    A sampled row is a query; the row itself is left out of its neighbours. If no effort reaches ``aim``, the greatest is
    taken. In a gallery of fewer than 400 rows the same rows choose and measure.
    """
    rows = index.ntotal
    at = min(AT, rows - 1)
    if kind == "exact" or at < 1:
        return Recall(1.0, max(at, 0), 0, 0)
    order = np.random.default_rng(0).permutation(rows)
    choosing = np.sort(order[:SAMPLED])
    measuring = np.sort(order[SAMPLED : 2 * SAMPLED]) if rows >= 2 * SAMPLED else choosing
    ladder = efforts(index, kind)
    sample = _Sample(index, kind, choosing, at)
    effort = next((step for step in ladder if sample.recall(step) >= aim), ladder[-1])
    return Recall(_Sample(index, kind, measuring, at).recall(effort), at, len(measuring), effort)


class _Sample:
    """Rows of the index as queries, with their true neighbours."""

    def __init__(self, index: Any, kind: str, rows: np.ndarray, at: int) -> None:
        self.index, self.kind, self.rows, self.at = index, kind, rows, at
        self.queries = np.concatenate(list(blocks(index, rows)))
        self.scores, self.true = self._without_themselves(*search_exactly(index, kind, self.queries, at + 1))

    def recall(self, effort: int) -> float:
        """Return the share of true neighbours found; a row as near as the last true one counts."""
        scores, found = self._without_themselves(*search(self.index, self.kind, self.queries, self.at + 1, effort))
        hits = (found[:, :, None] == self.true[:, None, :]).any(axis=2) | (scores >= self.scores[:, -1:] - 1e-6)
        return float(hits.mean())

    def _without_themselves(self, scores: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = np.argsort(found == self.rows[:, None], axis=1, kind="stable")[:, : self.at]
        return np.take_along_axis(scores, keep, 1), np.take_along_axis(found, keep, 1)
