"""Deduplication of equal rows: neighbours are searched among distinct rows, then expanded to all equal rows.

Equal rows have equal distances to every other row, so no product can order them: features that have collapsed to one point
would be compared pair by pair. So the search sees one row of each kind, and its lists are expanded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reidx.labels.compiled import compiled, in_threads

_FEW = 8  # equal rows that a search can order at no cost, by its candidates beyond k
_MINUS_ZERO = np.uint32(1 << 31)


class EqualRows(NamedTuple):
    """Groups of equal rows, numbered in the order of their first rows.

    `kind` (N,) is the group of each row, `first` (U,) the first row of each group; `members[starts[u]:starts[u + 1]]` are the
    rows of group u, ascending.
    """

    kind: np.ndarray
    first: np.ndarray
    starts: np.ndarray
    members: np.ndarray


def group_equal_rows(x: np.ndarray, few: int = _FEW) -> EqualRows | None:
    """Group equal rows of `x` (N, D) float32 in one pass; None unless a group has more than `few` rows."""
    hashes = np.empty(len(x), np.uint64)
    bits = x.view(np.uint32)  # compared except for the sign of zero
    factors = np.random.default_rng(0).integers(1, 1 << 63, size=x.shape[1], dtype=np.uint64) | np.uint64(1)
    in_threads(_hash, len(x), bits, factors, hashes)
    _, first, kind, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    if not len(counts) or counts.max() <= few:
        return None
    kind = kind.reshape(-1)
    if not all(in_threads(_alike, len(x), bits, first[kind])):  # two different rows have the same hash
        rows = (x + np.float32(0)).view(f"V{4 * x.shape[1]}")
        _, first, kind, counts = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
        kind = kind.reshape(-1)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    starts = np.concatenate([[0], np.cumsum(counts[order])])
    return EqualRows(number[kind], first[order], starts, np.argsort(number[kind], kind="stable"))


def expand_lists(
    of: EqualRows, squared: np.ndarray, lists: np.ndarray, k: int, which: np.ndarray, own: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Expand neighbour lists over kinds, ordered by (distance, first row), to the first `k` rows by (distance, number), (R, k).

    `squared` and `lists` (U, …) are the distances and kinds; row r expands the list `which[r]`. With `own` (R,) the first entry
    of row r is `own[r]`, at distance 0.
    """
    found = np.empty((len(which), k), np.float32), np.empty((len(which), k), np.int32)
    own_rows = np.full(len(which), -1, np.int64) if own is None else own
    in_threads(_fill, len(which), squared, lists, of.starts, of.members, which, own_rows, *found)
    return found


@compiled
def _hash(start, stop, bits, factors, hashes):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        total = np.uint64(0)
        for d in range(bits.shape[1]):
            total += np.uint64(bits[i, d] if bits[i, d] != _MINUS_ZERO else 0) * factors[d]
        hashes[i] = total


@compiled
def _alike(start, stop, bits, other):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        for d in range(bits.shape[1]):
            if bits[i, d] != bits[other[i], d] and (bits[i, d] | bits[other[i], d]) != _MINUS_ZERO:
                return False
    return True


@compiled
def _fill(start, stop, squared, lists, starts, members, which, own, to_squared, to_indices):  # type: ignore[no-untyped-def]
    k, width = to_indices.shape[1], lists.shape[1]
    together = np.empty(width * (k + 1), np.int32)
    for r in range(start, stop):
        filled = 0
        if own[r] >= 0:
            to_squared[r, 0], to_indices[r, 0], filled = 0, own[r], 1
        a, row = 0, which[r]
        while filled < k and a < width:
            distance, count = squared[row, a], 0
            while a < width and squared[row, a] == distance:  # rows of equally distant kinds, by number
                u = lists[row, a]
                for m in range(starts[u], min(starts[u + 1], starts[u] + k + 1)):
                    together[count] = members[m]
                    count += 1
                a += 1
            together[:count].sort()
            for m in range(count):
                if filled < k and together[m] != own[r]:
                    to_squared[r, filled], to_indices[r, filled] = distance, together[m]
                    filled += 1
