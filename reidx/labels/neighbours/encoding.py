"""k-reciprocal encodings: the expanded, weighted and averaged reciprocal neighbours of each row, as a sparse matrix."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from reidx.labels.compiled import compiled, in_threads, squared_distance

_NARROW = np.iinfo(np.int32).max
_LEAST = 1e-30  # minimum weight: one that underflows to 0 would not count as an entry in the sums over columns


def encode(
    features: Tensor,
    squared: np.ndarray,
    lists: np.ndarray,
    width: int,
    half: int,
    k2: int,
    scale: np.ndarray | None = None,
) -> csr_array:
    """Return the sparse encodings V (N, N) of `reidx.labels.distances.jaccard`; rows sum to 1, columns ascend.

    `squared` and `lists` (N, k) are the neighbours found by `nearest`; `width` and `half` are the lengths of the lists that
    define R and Rh; `scale` (N,) multiplies the squared distances of each row (default 1).
    """
    n = len(lists)
    x = features.cpu().numpy()
    scale = np.ones(n) if scale is None else scale
    whole, half_lists = _reciprocal_lists(lists, width), _reciprocal_lists(lists, half)
    rows = stacked(in_threads(_expand_and_weigh, n, lists, squared, *whole, *half_lists, x, scale), n)
    if k2 > 1:
        rows = stacked(in_threads(_average, n, lists[:, :k2], rows.indptr, rows.indices, rows.data), n)
    rows.sort_indices()
    return rows


def stacked(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], columns: int) -> csr_array:
    """Build one sparse matrix from the (row lengths, columns, values) of consecutive ranges of rows; frees `parts`."""
    lengths = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int64)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    filled = 0
    for p, (_, part_indices, part_data) in enumerate(parts):
        indices[filled : filled + len(part_indices)] = part_indices
        data[filled : filled + len(part_data)] = part_data
        filled += len(part_data)
        parts[p] = (np.empty(0), np.empty(0), np.empty(0))
    return compressed(indptr, indices, data, columns)


def compressed(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, columns: int) -> csr_array:
    """Build the sparse matrix of these arrays; scipy requires one integer type for its indices, of 32 bits if possible."""
    whole = np.int64 if indptr[-1] > _NARROW else np.int32
    indptr, indices = indptr.astype(whole), indices.astype(whole, copy=False)
    return csr_array((data, indices, indptr), shape=(len(indptr) - 1, columns))


@compiled
def room_for(entries, columns, values):  # type: ignore[no-untyped-def]
    """Grow both arrays, by doubling, until they have room for `entries` entries."""
    have = len(columns)
    if entries <= have:
        return columns, values
    wider, longer = np.empty(have + entries, np.int32), np.empty(have + entries, np.float32)
    wider[:have], longer[:have] = columns, values
    return wider, longer


def _reciprocal_lists(lists: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    n, columns = len(lists), min(width, lists.shape[1])
    members, counts = np.empty((n, columns), np.int32), np.empty(n, np.int32)
    in_threads(_reciprocal, n, lists, members, counts)
    return members, counts


@compiled
def _reciprocal(start, stop, lists, members, counts):  # type: ignore[no-untyped-def]
    width = members.shape[1]
    for i in range(start, stop):
        count = 0
        for a in range(width):
            j = lists[i, a]
            for b in range(width):
                if lists[j, b] == i:
                    members[i, count] = j
                    count += 1
                    break
        counts[i] = count


@compiled
def _expand_and_weigh(start, stop, lists, squared, members, counts, half_members, half_counts, x, scale):  # type: ignore[no-untyped-def]
    n = lists.shape[0]
    in_reciprocal, in_expanded = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    known_for, known = np.full(n, -1, np.int32), np.empty(n, np.float32)
    lengths = np.zeros(stop - start, np.int64)
    columns, values = room_for(64 * (stop - start), np.empty(0, np.int32), np.empty(0, np.float32))
    filled = 0
    for i in range(start, stop):
        for a in range(lists.shape[1]):
            known_for[lists[i, a]] = i
            known[lists[i, a]] = squared[i, a]
        first = filled
        most = counts[i] * (1 + half_members.shape[1])
        columns, values = room_for(filled + most, columns, values)
        for a in range(counts[i]):
            j = members[i, a]
            in_reciprocal[j] = i
            in_expanded[j] = i
            columns[filled] = j
            filled += 1
        for a in range(counts[i]):
            c = members[i, a]
            common = 0
            for b in range(half_counts[c]):
                if in_reciprocal[half_members[c, b]] == i:
                    common += 1
            if 3 * common > 2 * half_counts[c]:
                for b in range(half_counts[c]):
                    j = half_members[c, b]
                    if in_expanded[j] != i:
                        in_expanded[j] = i
                        columns[filled] = j
                        filled += 1
        total = 0.0
        for p in range(first, filled):
            j = columns[p]
            d = known[j] if known_for[j] == i else squared_distance(x[i], x[j])
            weight = np.exp(-np.float64(d) * scale[i])
            values[p] = max(weight, _LEAST)
            total += weight
        for p in range(first, filled):
            values[p] /= total
        lengths[i - start] = filled - first
    return lengths, columns[:filled].copy(), values[:filled].copy()


@compiled
def _average(start, stop, lists, indptr, indices, data):  # type: ignore[no-untyped-def]
    """Replace each row by the mean of the rows in its list."""
    n, k2 = lists.shape
    total = np.zeros(n, np.float32)
    lengths = np.zeros(stop - start, np.int64)
    columns, values = room_for(64 * (stop - start), np.empty(0, np.int32), np.empty(0, np.float32))
    filled = 0
    for i in range(start, stop):
        most = 0
        for a in range(k2):
            most += indptr[lists[i, a] + 1] - indptr[lists[i, a]]
        columns, values = room_for(filled + most, columns, values)
        first = filled
        for a in range(k2):
            for p in range(indptr[lists[i, a]], indptr[lists[i, a] + 1]):
                t = indices[p]
                if total[t] == 0:
                    columns[filled] = t
                    filled += 1
                total[t] += data[p]
        for p in range(first, filled):
            values[p] = total[columns[p]] / k2
            total[columns[p]] = 0
        lengths[i - start] = filled - first
    return lengths, columns[:filled].copy(), values[:filled].copy()
