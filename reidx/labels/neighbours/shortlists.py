"""The best-scored candidates of many rows, updated from blocks of scores."""

from __future__ import annotations

import numpy as np

from reidx.labels.compiled import compiled


class Shortlists:
    """For each of `rows` rows the `count` candidates of the highest scores of all it was shown.

    A row's list has twice the room. What scores higher than the last cut is written behind the others, and when the room
    is used up all but the best `count` are cut: a candidate costs a comparison, one that is kept little more. Of equal
    scores those shown first stay, if shown in ascending order. Threads may share one object if each works on different rows.
    """

    def __init__(self, rows: int, count: int) -> None:
        self.count = count
        self._scores = np.empty((rows, 2 * count), np.float32)
        self._numbers = np.empty((rows, 2 * count), np.int32)
        self._filled = np.zeros(rows, np.int32)
        self._cuts = np.full(rows, -np.inf, np.float32)

    def show(self, rows: np.ndarray, scores: np.ndarray, first: int) -> None:
        """Take in `scores` (B, W) of the candidates `first`, `first` + 1, … for the B different `rows`."""
        _keep(rows, scores, first, self.count, self._scores, self._numbers, self._filled, self._cuts)

    def show_both(self, products: np.ndarray, penalty: np.ndarray, row: int, column: int) -> None:
        """Take in each of the `products` (B, W) of rows `row`, … and other rows `column`, … for both: each side sees it
        less the `penalty` (rows,) of the other.
        """
        _keep_both(products, penalty, row, column, self.count, self._scores, self._numbers, self._filled, self._cuts)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """The candidates (rows, count) in no order, -1 where there were fewer, and the least of their scores (rows,)."""
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
            higher = np.int32(0)  # counted first, which takes vector registers: in most stretches there is none
            for c in range(len(part)):
                higher += np.int32(part[c] > cut)
            if higher == 0:
                continue
            for c in range(len(part)):
                # written in any case, and counted where it belongs there: no branch to be guessed
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
    """Bring the `count` highest of the first `filled` scores to the front, and return the least of them (quickselect).

    Of equal scores that of the smaller number counts as higher.
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
