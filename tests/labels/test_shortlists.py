"""Scores that come in piece by piece, against all of them sorted at once."""

from __future__ import annotations

import numpy as np
import pytest

from reidx.labels.shortlists import Shortlists


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("width", [1, 63, 64, 65, 500])
@pytest.mark.parametrize("kind", ["any", "falling", "rising", "few values", "equal"])
def test_the_best_of_all_that_was_shown(count: int, width: int, kind: str) -> None:
    random = np.random.default_rng(count + width)
    scores = random.normal(size=(5, width)).astype(np.float32)
    if kind in ("falling", "rising"):
        scores = np.sort(scores, axis=1)[:, :: -1 if kind == "falling" else 1].copy()
    elif kind != "any":
        scores = np.round(scores) if kind == "few values" else np.ones_like(scores)
    lists = Shortlists(9, count)
    rows = np.array([8, 0, 3, 4, 1])
    for first, piece in ((0, scores[:, : width // 3]), (width // 3, scores[:, width // 3 :])):
        lists.show(rows, np.ascontiguousarray(piece), first)
    found, least = lists.best()
    found, least = found[rows], least[rows]
    kept = min(count, width)
    assert (found[:, kept:] == -1).all() and (found[:, :kept] >= 0).all()
    assert all(len(set(row[:kept])) == kept for row in found.tolist())
    expected = -np.sort(-scores, axis=1)[:, :kept]
    assert np.array_equal(-np.sort(-np.take_along_axis(scores, found[:, :kept], axis=1), axis=1), expected)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :kept]  # of equal scores the first
    assert np.array_equal(np.sort(found[:, :kept], axis=1), np.sort(first, axis=1))
    if kept == count:
        assert np.array_equal(least, expected[:, -1])


def test_rows_that_were_shown_nothing_have_no_candidates() -> None:
    found, least = Shortlists(3, 4).best()
    assert (found == -1).all() and (least == -np.inf).all()


def test_pieces_may_ask_other_rows_each() -> None:
    """As the cells of an index do: each row sees some pieces."""
    random = np.random.default_rng(0)
    lists, seen = Shortlists(20, 6), np.full((20, 3000), -np.inf, np.float32)
    for first in range(0, 3000, 100):
        rows = random.permutation(20)[: random.integers(1, 20)]
        scores = random.normal(size=(len(rows), 100)).astype(np.float32)
        seen[rows, first : first + 100] = scores
        lists.show(rows, scores, first)
    found, least = lists.best()
    expected = np.argsort(-seen, axis=1)[:, :6]
    assert np.array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))
    assert np.array_equal(least, np.take_along_axis(seen, expected[:, 5:6], axis=1)[:, 0])
