"""Candidates for rows that are so close together that products of whole rows cannot distinguish them.

Subtracting a point from all rows does not change distances, but shrinks the rows and with them the rounding errors. So rows
are processed in balls: around a row whose neighbours no search has proven, with the mean of the ball subtracted. By the
triangle inequality, rows outside the ball are farther. If a network has collapsed to a few points, that takes one product
per point instead of a comparison of all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from reidx.labels.compiled import compiled, in_threads
from reidx.labels.neighbours.candidates import Search, mutual_search, torch_search

_WIDE = 1.5  # the radius of a ball, in distances from its central row to the k-th neighbour
_MORE = 32  # candidates beyond k: in many dimensions all rows of a clump are about equally far apart


def too_close(x: np.ndarray) -> float:
    """Return the squared distance below which float32 products can hardly prove an order of rows like the first of `x`."""
    longest = float(np.linalg.norm(x[: 1 << 10], axis=1).max())
    return 16.0 * 2 * (x.shape[1] + 8) * 2.0**-24 * (2 * longest) ** 2


def clumps(
    gallery: np.ndarray, queries: np.ndarray | None, k: int, rows: np.ndarray, within: np.ndarray
) -> Iterator[tuple[np.ndarray, Search]]:
    """Divide `rows` into balls; yield the rows of each ball with a search for them, starting from the closest neighbours.

    `within` (R,) is, for each row, a squared distance within which it has k neighbours. Without `queries` the rows belong to
    the gallery. Cost of a ball: the distances of its central row to all rows, and the products inside the ball.
    """
    order = np.argsort(within, kind="stable")
    rows = rows[order]
    query_rows = gallery if queries is None else queries[rows]
    left = np.ones(len(rows), np.bool_)
    for place in range(len(rows)):
        if not left[place]:
            continue
        centre = query_rows[rows[place]] if queries is None else query_rows[place]
        apart = _distances(gallery, centre)
        own = apart[rows] if queries is None else _distances(query_rows, centre)
        kth = float(np.partition(apart, k - 1)[k - 1])
        in_ball = left & (own <= _WIDE * kth)
        left[in_ball] = False
        # k neighbours of a row are within the sum of its distance to the centre and kth
        inside = apart <= (2 * _WIDE + 1) * kth * (1 + 1e-6)
        beyond = float(apart[~inside].min()) if not inside.all() else np.inf
        by_number = np.argsort(rows[in_ball])
        targets = rows[in_ball][by_number]
        outside = np.maximum(beyond - own[in_ball][by_number], 0) ** 2 * (1 - 1e-9)
        yield targets, _inside(gallery, queries, k, np.flatnonzero(inside), targets, outside)


def _inside(
    gallery: np.ndarray, queries: np.ndarray | None, k: int, members: np.ndarray, targets: np.ndarray, outside: np.ndarray
) -> Search:
    """Build the search among `members` for ascending `targets`, which are at least `outside` (squared) from all other rows."""
    y = gallery[members]
    middle = y[: 1 << 12].mean(axis=0, dtype=np.float64).astype(np.float32)
    y -= middle
    largest = float(np.abs(y).max())
    scale = np.float32(2.0 ** min(100, -np.frexp(largest)[1])) if largest > 0 else np.float32(1)
    y *= scale  # exact, and no square is too small for float32
    features, count = torch.from_numpy(y), k + _MORE
    if queries is None:
        local = np.searchsorted(members, targets)
        if 2 * len(targets) > len(members):
            search = mutual_search(features, count, torch.float32)
        else:
            search = torch_search(features, features, count, torch.float32, torch.device("cpu"))
    else:
        x = (queries[targets] - middle) * scale
        local = np.arange(len(targets))
        search = torch_search(features, torch.from_numpy(x), count, torch.float32, torch.device("cpu"))
    in_ball = y[local] if queries is None else x
    longest = float(np.linalg.norm(y, axis=1).max())
    # the rounding errors of the subtraction in both rows
    rounded = 2.0**-23 * (np.linalg.norm(in_ball, axis=1).astype(np.float64) + longest) * (1 + 1e-3)

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.searchsorted(targets, rows)
        where, floor = search.propose(local[place])
        least = np.maximum(np.sqrt(np.maximum(floor, 0)) - rounded[place], 0) / float(scale)
        numbers = members[where].astype(np.int32)
        numbers[where < 0] = -1
        return numbers, np.minimum(least**2, outside[place])

    return Search(search.block, propose)


def _distances(x: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the distance of each row to a point, (N,) float64."""
    found = np.empty(len(x), np.float64)
    in_threads(_to_point, len(x), x, point, found)
    return found


@compiled
def _to_point(start, stop, x, point, found):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        total = 0.0
        for d in range(x.shape[1]):
            difference = np.float64(x[i, d]) - np.float64(point[d])
            total += difference * difference
        found[i] = np.sqrt(total)
