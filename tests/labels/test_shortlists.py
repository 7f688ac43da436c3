"""Scores that arrive piece by piece, against a sort of all scores."""

from __future__ import annotations

import numpy as np
import pytest

from reidx.labels.neighbours.shortlists import Shortlists


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("width", [1, 63, 64, 65, 500])
@pytest.mark.parametrize("kind", ["any", "falling", "rising", "few values", "equal"])
def test_best_of_all_shown_scores(count: int, width: int, kind: str) -> None:
    random = np.random.default_rng(count + width)
    scores = random.normal(size=(5, width)).astype(np.float32)
    if kind in ("falling", "rising"):
        scores = np.sort(scores, axis=1)[:, :: -1 if kind == "falling" else 1].copy()
    elif kind != "any":
        scores = np.round(scores) if kind == "few values" else np.ones_like(scores)
    lists = Shortlists(9, count)
    rows = np.array([8, 0, 3, 4, 1])
    for first, piece in ((0, scores[:, : width // 3]), (width // 3, scores[:, width // 3 :])):
        lists.add(rows, np.ascontiguousarray(piece), first)
    found, least = lists.best()
    found, least = found[rows], least[rows]
    kept = min(count, width)
    assert (found[:, kept:] == -1).all() and (found[:, :kept] >= 0).all()
    assert all(len(set(row[:kept])) == kept for row in found.tolist())
    expected = -np.sort(-scores, axis=1)[:, :kept]
    assert np.array_equal(-np.sort(-np.take_along_axis(scores, found[:, :kept], axis=1), axis=1), expected)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :kept]  # among equal scores the first ones
    assert np.array_equal(np.sort(found[:, :kept], axis=1), np.sort(first, axis=1))
    if kept == count:
        assert np.array_equal(least, expected[:, -1])


def test_rows_without_scores_have_no_candidates() -> None:
    found, least = Shortlists(3, 4).best()
    assert (found == -1).all() and (least == -np.inf).all()


def test_pieces_may_have_different_rows() -> None:
    """As with the cells of an index: each row receives only some pieces."""
    random = np.random.default_rng(0)
    lists, seen = Shortlists(20, 6), np.full((20, 3000), -np.inf, np.float32)
    for first in range(0, 3000, 100):
        rows = random.permutation(20)[: random.integers(1, 20)]
        scores = random.normal(size=(len(rows), 100)).astype(np.float32)
        seen[rows, first : first + 100] = scores
        lists.add(rows, scores, first)
    found, least = lists.best()
    expected = np.argsort(-seen, axis=1)[:, :6]
    assert np.array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))
    assert np.array_equal(least, np.take_along_axis(seen, expected[:, 5:6], axis=1)[:, 0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 40), (33, 31), (64, 100)])
@pytest.mark.parametrize("count", [1, 5, 30])
def test_products_serve_rows_of_both_sides(height: int, width: int, count: int) -> None:
    random = np.random.default_rng(height)
    products = random.normal(size=(height, width)).astype(np.float32)
    penalty = random.random(200).astype(np.float32)
    lists, apart = Shortlists(200, count), Shortlists(200, count)
    for first in (0, 100):  # rows 10 … and 80 … receive scores twice, from different products
        part = (products + first).astype(np.float32)
        lists.add_both(part, penalty, 10, 80 + first // 100)
        for rows, others, values in ((10, 80 + first // 100, part), (80 + first // 100, 10, part.T)):
            known = np.ascontiguousarray(values - penalty[others : others + values.shape[1]])
            apart.add(np.arange(rows, rows + len(known)), known, others)
    (found, least), (expected, floor) = lists.best(), apart.best()
    assert np.array_equal(least, floor)
    assert np.array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))
