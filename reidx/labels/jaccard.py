"""The k-reciprocal Jaccard distance, exact and sparse.

Source: Zhong et al., "Re-ranking person re-identification with k-reciprocal encoding", CVPR 2017, in the form that
clustering-based re-ID uses (LP section 1.2). With S(i) the first k1 neighbours of i, itself included:

    R(i)    = {j in S(i) : i in S(j)}, and Rh(i) the same on the first round(k1/2) + 1 neighbours
    E(i)    = R(i) with every Rh(c), c in R(i), of which more than 2/3 lies in R(i)
    V(i, j) = exp(-|f_i - f_j|²), j in E(i), divided by the row's sum;  then averaged over the first k2 neighbours of i
    d(i, j) = 1 - s / (2 - s),  s = sum_t min(V(i, t), V(j, t))

Cost after the neighbours: N·k1² for the lists, and for the sum the number of pairs of rows that share a column, found
by an inverted index: no step is N·N in time or memory unless the neighbour lists themselves are.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from reidx.errors import ConfigError
from reidx.labels.compiled import compiled, in_threads, squared_distance
from reidx.labels.features import checked, unit
from reidx.labels.neighbours import nearest
from reidx.labels.sharding import nearest_together


class Jaccard:
    """Features (N, D) to the sparse graph of their k-reciprocal Jaccard distances, float32 in [0, 1).

    Features are scaled to length 1 unless they are. `k1` is the length of the neighbour lists, self included, `k2` the
    number of neighbours whose encodings are averaged (1: none). `backend` and `device` as in `knn`: they change the
    time, not the graph. With N < k1 all images are neighbours. With `sharded` the processes of a distributed job share
    the search: then each of them must make the call, with the same features. Raises DataError for features that are not
    finite.
    """

    requires: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    cameras = "unused"

    def __init__(
        self,
        k1: int = 30,
        k2: int = 6,
        backend: str = "auto",
        device: str | None = None,
        sharded: bool = False,
    ) -> None:
        if k1 < 1 or not 1 <= k2 <= k1:
            raise ConfigError(f"Jaccard: k1={k1}, k2={k2}; needs 1 <= k2 <= k1.")
        self.k1, self.k2, self.backend, self.device, self.sharded = k1, k2, backend, device, sharded

    def __call__(self, features: Tensor) -> csr_array:
        """The graph (N, N): symmetric, diagonal stored, every pair closer than 1 stored."""
        features = unit(checked(features))
        search = nearest_together if self.sharded else nearest
        squared, lists = search(features, self.k1, backend=self.backend, device=self.device)
        half = round(self.k1 / 2) + 1
        encodings = encode(features, squared, lists, self.k1, half, self.k2)
        return jaccard(encodings)


def encode(
    features: Tensor,
    squared: np.ndarray,
    lists: np.ndarray,
    width: int,
    half: int,
    k2: int,
    scale: np.ndarray | None = None,
) -> csr_array:
    """The encodings V (N, N) of the module's text, sparse, each row summing to 1, columns ascending.

    `squared` and `lists` (N, k) are the neighbours by `nearest`; `width` and `half` how many columns of them S and its
    half take; `scale` (N,) multiplies the squared distances of each row (default 1).
    """
    n = len(lists)
    x = features.cpu().numpy()
    scale = np.ones(n, np.float32) if scale is None else scale.astype(np.float32)
    whole, half_lists = _reciprocal_lists(lists, width), _reciprocal_lists(lists, half)
    rows = _stack(in_threads(_expand_and_weigh, n, lists, squared, *whole, *half_lists, x, scale), n)
    if k2 > 1:
        rows = _stack(in_threads(_average, n, lists[:, :k2], rows.indptr, rows.indices, rows.data), n)
    rows.sort_indices()
    return rows


def jaccard(encodings: csr_array, rows: int | None = None) -> csr_array:
    """The distances (rows, N) of the first `rows` encodings to all, float32; by default all, then exactly symmetric."""
    n = encodings.shape[0]
    by_column = encodings.tocsc()  # the inverted index: for a column, the rows that have it, ascending
    half = rows is None
    parts = in_threads(
        _share, n if rows is None else rows, encodings.indptr, encodings.indices, encodings.data,
        by_column.indptr, by_column.indices, by_column.data, half, chunks_per_thread=16,
    )  # fmt: skip
    upper = _stack(parts, n)
    if not half:
        upper.sort_indices()
        return upper
    indptr, indices, data = _mirrored(upper.indptr, upper.indices, upper.data)
    return csr_array((data, indices, indptr), shape=(n, n))


def _stack(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], columns: int) -> csr_array:
    """One sparse matrix from the (row lengths, columns, values) of consecutive ranges of rows, which it uses up."""
    lengths = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int64)
    indptr = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    filled = 0
    for p, (_, part_indices, part_data) in enumerate(parts):
        indices[filled : filled + len(part_indices)] = part_indices
        data[filled : filled + len(part_data)] = part_data
        filled += len(part_data)
        parts[p] = (np.empty(0), np.empty(0), np.empty(0))
    if indptr[-1] < np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    else:
        indices = indices.astype(np.int64)  # scipy wants one integer type for both
    return csr_array((data, indices, indptr), shape=(len(lengths), columns))


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
    columns, values = (
        np.empty(64 * (stop - start) + 64, np.int32),
        np.empty(64 * (stop - start) + 64, np.float32),
    )
    filled = 0
    for i in range(start, stop):
        for a in range(lists.shape[1]):
            known_for[lists[i, a]] = i
            known[lists[i, a]] = squared[i, a]
        first = filled
        most = counts[i] * (1 + half_members.shape[1])
        if filled + most > len(columns):
            columns = np.concatenate((columns, np.empty(len(columns) + most, np.int32)))
            values = np.concatenate((values, np.empty(len(values) + most, np.float32)))
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
            values[p] = weight
            total += weight
        for p in range(first, filled):
            values[p] /= total
        lengths[i - start] = filled - first
    return lengths, columns[:filled].copy(), values[:filled].copy()


@compiled
def _average(start, stop, lists, indptr, indices, data):  # type: ignore[no-untyped-def]
    """Each row becomes the mean of the rows in its list."""
    n, k2 = lists.shape
    total = np.zeros(n, np.float32)
    lengths = np.zeros(stop - start, np.int64)
    columns, values = (
        np.empty(64 * (stop - start) + 64, np.int32),
        np.empty(64 * (stop - start) + 64, np.float32),
    )
    filled = 0
    for i in range(start, stop):
        most = 0
        for a in range(k2):
            most += indptr[lists[i, a] + 1] - indptr[lists[i, a]]
        if filled + most > len(columns):
            columns = np.concatenate((columns, np.empty(len(columns) + most, np.int32)))
            values = np.concatenate((values, np.empty(len(values) + most, np.float32)))
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


@compiled
def _share(start, stop, indptr, indices, data, col_indptr, col_rows, col_data, half):  # type: ignore[no-untyped-def]
    """Row i's distances to the rows j it shares a column with; with `half` only those with j >= i."""
    n = len(col_indptr) - 1
    shared = np.zeros(n, np.float32)
    touched = np.empty(n, np.int32)
    lengths = np.zeros(stop - start, np.int64)
    columns, values = (
        np.empty(64 * (stop - start) + 64, np.int32),
        np.empty(64 * (stop - start) + 64, np.float32),
    )
    filled = 0
    for i in range(start, stop):
        count = 0
        for p in range(indptr[i], indptr[i + 1]):
            t, v = indices[p], data[p]
            low, high = col_indptr[t], col_indptr[t + 1]
            end = high
            if half:
                while low < high:
                    middle = (low + high) // 2
                    if col_rows[middle] < i:
                        low = middle + 1
                    else:
                        high = middle
            for q in range(low, end):
                j = col_rows[q]
                if shared[j] == 0:
                    touched[count] = j
                    count += 1
                shared[j] += min(v, col_data[q])
        if filled + count > len(columns):
            columns = np.concatenate((columns, np.empty(len(columns) + count, np.int32)))
            values = np.concatenate((values, np.empty(len(values) + count, np.float32)))
        for a in range(count):
            j = touched[a]
            s = shared[j]
            shared[j] = 0
            distance = max(np.float32(1) - s / (np.float32(2) - s), np.float32(0))
            if distance < 1:
                columns[filled] = j
                values[filled] = distance
                filled += 1
                lengths[i - start] += 1
    return lengths, columns[:filled].copy(), values[:filled].copy()


@compiled
def _mirrored(indptr, indices, data):  # type: ignore[no-untyped-def]
    """The symmetric matrix whose upper half (diagonal included) is given, columns ascending in each row."""
    n = len(indptr) - 1
    lengths = np.zeros(n + 1, np.int64)
    for i in range(n):
        for p in range(indptr[i], indptr[i + 1]):
            lengths[i + 1] += 1
            if indices[p] != i:
                lengths[indices[p] + 1] += 1
    full_indptr = np.zeros(n + 1, indptr.dtype)
    for i in range(n):
        full_indptr[i + 1] = full_indptr[i] + lengths[i + 1]
    full_indices, full_data = np.empty(full_indptr[n], indices.dtype), np.empty(full_indptr[n], data.dtype)
    place = full_indptr[:n].copy()
    for i in range(n):  # below the diagonal: rows i ascending, so each row j receives its columns in order
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            if j != i:
                full_indices[place[j]] = i
                full_data[place[j]] = data[p]
                place[j] += 1
    lower_end = place.copy()
    for i in range(n):
        for p in range(indptr[i], indptr[i + 1]):
            if indices[p] == i:
                full_indices[place[i]] = i
                full_data[place[i]] = data[p]
                place[i] += 1
    for j in range(n):  # above it: the lower half row by row, so again each row receives its columns in order
        for p in range(full_indptr[j], lower_end[j]):
            i = full_indices[p]
            full_indices[place[i]] = j
            full_data[place[i]] = full_data[p]
            place[i] += 1
    return full_indptr, full_indices, full_data
