"""Candidates with the highest scores, of many rows, updated from blocks of scores."""

from __future__ import annotations

import numpy as np

from reidx.labels.compiled import compiled


class Shortlists:
    """The `count` candidates with the highest scores, for each of `rows` rows.

    The list of a row has room for twice as many. A candidate that scores higher than the last cut is appended; when the list
    is full, all but the best `count` are cut. So a candidate costs one comparison, and little more if it is kept. Among equal
    scores, those added first stay, if candidates are added in ascending order. Threads may share an object if they work on
    different rows.
    """

    def __init__(self, rows: int, count: int) -> None:
        self.count = count
        self._scores = np.empty((rows, 2 * count), np.float32)
        self._numbers = np.empty((rows, 2 * count), np.int32)
        self._filled = np.zeros(rows, np.int32)
        self._cuts = np.full(rows, -np.inf, np.float32)

    def add(self, rows: np.ndarray, scores: np.ndarray, first: int) -> None:
        """Add `scores` (B, W) of the candidates `first`, `first` + 1, … for the B different `rows`."""
        _keep(rows, scores, first, self.count, self._scores, self._numbers, self._filled, self._cuts)

    def add_both(self, products: np.ndarray, penalty: np.ndarray, row: int, column: int) -> None:
        """Add the `products` (B, W) of the rows `row`, … with the other rows `column`, … for both rows of each.

        The score for one row is the product less the `penalty` (rows,) of the other.
        """
        _keep_both(products, penalty, row, column, self.count, self._scores, self._numbers, self._filled, self._cuts)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the candidates (rows, count) in no order, -1 if there were fewer, and the least of their scores (rows,)."""
        _finish(self.count, self._scores, self._numbers, self._filled, self._cuts)
        return self._numbers[:, : self.count], self._cuts


@compiled
def _keep(rows, scores, first, count, best, numbers, filled, cuts):  # type: ignore[no-untyped-def]
    room, width = best.shape[1], scores.shape[1]
    for r in range(len(rows)):
        i = rows[r]
        own, named, end, cut = best[i], numbers[i], filled[i], cuts[i]
        for begin in range(0, width, 32):
            part = scores[r, begin : min(begin + 32, width)]
            higher = np.int32(0)  # counted first, with vector instructions: most stretches have none
            for c in range(len(part)):
                higher += np.int32(part[c] > cut)
            if higher == 0:
                continue
            for c in range(len(part)):
                # always written, but counted only if higher: no branch to predict
                own[end] = part[c]
                named[end] = first + begin + c
                end += part[c] > cut
                if end == room:
                    cut = _cut(own, named, room, count)
                    end = count
        filled[i], cuts[i] = end, cut


@compiled
def _keep_both(products, penalty, row, column, count, best, numbers, filled, cuts):  # type: ignore[no-untyped-def]
    room, width = best.shape[1], products.shape[1]
    for r in range(products.shape[0]):
        i = row + r
        end, cut, off = filled[i], cuts[i], penalty[i]
        for begin in range(0, width, 32):
            first, stop = column + begin, column + min(begin + 32, width)
            part = products[r, begin : min(begin + 32, width)]
            offs, theirs = penalty[first:stop], cuts[first:stop]
            higher = np.int32(0)
            for c in range(len(part)):
                higher += np.int32(part[c] - offs[c] > cut) | np.int32(part[c] - off > theirs[c])
            if higher == 0:
                continue
            for c in range(len(part)):
                best[i, end] = part[c] - offs[c]
                numbers[i, end] = first + c
                end += part[c] - offs[c] > cut
                if end == room:
                    cut = _cut(best[i], numbers[i], room, count)
                    end = count
                if part[c] - off > theirs[c]:
                    j = first + c
                    last = filled[j]
                    best[j, last] = part[c] - off
                    numbers[j, last] = i
                    filled[j] = last + 1
                    if last + 1 == room:
                        cuts[j] = _cut(best[j], numbers[j], room, count)
                        filled[j] = count
        filled[i], cuts[i] = end, cut


@compiled
def _finish(count, best, numbers, filled, cuts):  # type: ignore[no-untyped-def]
    for i in range(len(filled)):
        if filled[i] > count:
            cuts[i] = _cut(best[i], numbers[i], filled[i], count)
        elif filled[i] == count:
            cuts[i] = best[i, :count].min() if count else -np.inf
        for c in range(filled[i], count):
            numbers[i, c] = -1


@compiled
def _cut(scores, numbers, filled, count):  # type: ignore[no-untyped-def]
    """Move the `count` highest of the first `filled` scores to the front and return the least of them (quickselect).

    Among equal scores, the one with the smaller number ranks higher.
    """
    low, high = 0, filled - 1
    while low < high:
        middle, number = scores[(low + high) // 2], numbers[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while scores[i] > middle or (scores[i] == middle and numbers[i] < number):
                i += 1
            while scores[j] < middle or (scores[j] == middle and numbers[j] > number):
                j -= 1
            if i <= j:
                scores[i], scores[j] = scores[j], scores[i]
                numbers[i], numbers[j] = numbers[j], numbers[i]
                i += 1
                j -= 1
        if count - 1 <= j:
            high = j
        elif count - 1 >= i:
            low = i
        else:
            break
    return scores[:count].min()
