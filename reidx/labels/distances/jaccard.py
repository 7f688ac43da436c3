"""k-reciprocal Jaccard distances, exact and sparse.

Source: Zhong et al., "Re-ranking person re-identification with k-reciprocal encoding", CVPR 2017, in the form that
clustering-based re-ID uses. With S(i) the first k1 neighbours of i, itself included:

    R(i)    = {j in S(i) : i in S(j)}, and Rh(i) the same on the first round(k1/2) + 1 neighbours
    E(i)    = R(i) with every Rh(c), c in R(i), of which more than 2/3 lies in R(i)
    V(i, j) = exp(-|f_i - f_j|²), j in E(i), divided by the row's sum;  then averaged over the first k2 neighbours of i
    d(i, j) = 1 - s / (2 - s),  s = sum_t min(V(i, t), V(j, t))

Cost, besides the neighbour search: N·k1² for the lists, and one operation for each column that two rows share, found by an
inverted index. If images form clusters, few pairs share a column. Without clusters, or if a network maps every image to
one point, nearly all N·N pairs share one, and are stored unless `within` excludes them.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels.compiled import compiled, in_threads
from reidx.labels.features import checked, unit
from reidx.labels.graph import checked_graph
from reidx.labels.neighbours.encoding import compressed, encode, room_for, stacked
from reidx.labels.neighbours.exact import nearest
from reidx.labels.neighbours.sharding import nearest_sharded
from reidx.machine.free_memory import free_memory

_LARGE = 4_000  # rows; with fewer, the graph of all pairs takes at most 200 MB
_BYTES = 14  # peak memory per entry: in the upper half, in its parts before they are stacked, and in the whole graph
_MOST = 2e9  # maximum bytes of a graph in which nearly all images are near each other
_NEAR = 0.5  # distance of near images: those that share only some neighbours are farther, many equal ones are at 0.29
_LOOKS = 4e11  # maximum comparisons of entries in the same column: some minutes


class Jaccard:
    """k-reciprocal Jaccard distances; the usual choice before clustering.

    Maps features (N, D) to the sparse graph of their k-reciprocal Jaccard distances, float32 in [0, 1).

    Features are scaled to length 1. `k1` is the length of the neighbour lists, including the image itself, `k2` the number of
    neighbours whose encodings are averaged (1: none). `backend` and `device` are those of `knn`; they change the time, not
    the graph. With N < k1 all images are neighbours. With `sharded` the processes of a distributed job share the search, and
    all of them must make the call with the same features. Raises DataError for features that are not finite.
    """

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

    def __call__(self, features: Tensor, within: float = 1.0, among: csr_array | None = None) -> csr_array:
        """Return the symmetric graph (N, N) of the distances below 1 that are not beyond `within`, with its diagonal.

        `among`, a symmetric graph of the same images, restricts it to the pairs that are stored there.
        """
        return jaccard(self.encodings(unit(checked(features))), within=within, among=among)

    def encodings(self, features: Tensor) -> csr_array:
        """Return the k-reciprocal encodings (N, N) of unit features (N, D)."""
        squared, lists = self.nearest(features, self.k1)
        return encode(features, squared, lists, self.k1, round(self.k1 / 2) + 1, self.k2)

    def nearest(self, features: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances (N, k) and indices (N, k) of the nearest rows, by the configured backend and processes."""
        search = nearest_sharded if self.sharded else nearest
        return search(features, k, backend=self.backend, device=self.device)


def jaccard(encodings: csr_array, within: float = 1.0, among: csr_array | None = None) -> csr_array:
    """Return the distances (N, N) between all encodings, float32, exactly symmetric.

    Distances of 1, distances beyond `within`, and pairs that are not stored in `among` (symmetric) are left out.
    """
    n = encodings.shape[0]
    by_column = encodings.tocsc()  # the inverted index: for a column, the rows that have it, ascending
    if among is not None and among.shape != (n, n):
        raise DataError(f"Jaccard: the requested pairs are of {among.shape[0]} images, the features of {n}.")
    requested = _requested_pairs(among if among is None else checked_graph(among, n, "Jaccard: the requested pairs"))
    if n > _LARGE:
        _refuse_dense_graph(encodings, by_column, within, requested)
    parts = in_threads(
        _shared_distances, n, encodings.indptr, encodings.indices, encodings.data,
        by_column.indptr, by_column.indices, by_column.data, True, np.float32(within), *requested, chunks_per_thread=16,
    )  # fmt: skip
    return _symmetric_from_upper(stacked(parts, n))


def jaccard_between(queries: csr_array, gallery: csc_array) -> csr_array:
    """Return the distances (Q, G) from encodings (Q, N) to encodings (G, N), float32, without distances of 1."""
    parts = in_threads(
        _shared_distances, queries.shape[0], queries.indptr, queries.indices, queries.data,
        gallery.indptr, gallery.indices, gallery.data, False, np.float32(1), *_requested_pairs(None),
    )  # fmt: skip
    return stacked(parts, gallery.shape[0])


def _requested_pairs(among: csr_array | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs stored in `among`, in the index types of the compiled loop; empty for all pairs."""
    if among is None:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    return among.indptr.astype(np.int64, copy=False), among.indices.astype(np.int32, copy=False)


@compiled
def _shared_distances(  # type: ignore[no-untyped-def]
    start, stop, indptr, indices, data, col_indptr, col_rows, col_data, half, within, requested_indptr, requested_rows
):
    """Compute the distances of each row i to the rows j that share a column with it; with `half` only those with j >= i."""
    n = len(col_indptr) - 1
    all_pairs = len(requested_indptr) == 0
    requested_by = np.full(0 if all_pairs else n, -1, np.int32)
    shared = np.zeros(n, np.float32)
    touched = np.empty(n, np.int32)
    lengths = np.zeros(stop - start, np.int64)
    columns, values = room_for(64 * (stop - start), np.empty(0, np.int32), np.empty(0, np.float32))
    filled = 0
    for i in range(start, stop):
        if not all_pairs:
            for p in range(requested_indptr[i], requested_indptr[i + 1]):
                requested_by[requested_rows[p]] = i
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
        columns, values = room_for(filled + count, columns, values)
        for a in range(count):
            j = touched[a]
            s = shared[j]
            shared[j] = 0
            distance = max(np.float32(1) - s / (np.float32(2) - s), np.float32(0))
            if distance < 1 and distance <= within and (all_pairs or requested_by[j] == i):
                columns[filled] = j
                values[filled] = distance
                filled += 1
                lengths[i - start] += 1
    return lengths, columns[:filled].copy(), values[:filled].copy()


def _refuse_dense_graph(
    encodings: csr_array, by_column: csr_array, within: float, requested: tuple[np.ndarray, np.ndarray]
) -> None:
    """Raise :class:`DataError` if, judged by a sample of rows, the whole graph would not fit into memory.

    Also raises for a graph of more than `_MOST` bytes in which the average image is near a tenth of all others, and for more
    than `_LOOKS` comparisons of entries: such features give a few giant clusters at best.
    """
    n = encodings.shape[0]
    looks = float((np.diff(by_column.indptr).astype(np.float64) ** 2).sum())
    parts = [
        _shared_distances(
            row, row + 1, encodings.indptr, encodings.indices, encodings.data,
            by_column.indptr, by_column.indices, by_column.data, False, np.float32(within), *requested,
        )
        for row in np.linspace(0, n - 1, 64).astype(np.int64).tolist()
    ]  # fmt: skip
    mean, near = (float(np.mean([(part[2] <= most).sum() for part in parts])) for most in (1.0, _NEAR))
    needed, free = mean * n * _BYTES, free_memory()
    if needed > free or (needed > _MOST and near > n / 10):
        reason = f"the graph would take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free"
    elif looks > _LOOKS:
        reason = f"{looks / n / n:,.0f} common neighbours of each pair of images would have to be counted"
    else:
        return
    raise DataError(
        f"Jaccard: the average image has {mean:,.0f} of {n:,} images within distance {within:g}: {reason}. The features are "
        "too close together: the network may have collapsed (lower its learning rate, or start from better weights); else "
        "lower the clusterer's eps, or k1."
    )


def _symmetric_from_upper(upper: csr_array) -> csr_array:
    """Return the symmetric matrix with the given upper half (diagonal included), columns ascending in each row.

    Writes two transposes with ascending rows, so that each row receives its columns in order: that of the upper half gives
    the lower half with the diagonal, and that of the lower half, without the diagonal, gives the upper one.
    """
    n = upper.shape[0]
    indptr = np.concatenate([[0], np.cumsum(_lengths(upper.indptr, upper.indices))])
    indices, data = np.empty(indptr[-1], upper.indices.dtype), np.empty(indptr[-1], upper.data.dtype)
    place = indptr[:-1].copy()
    turn = partial(in_threads, _write_transposed, n, chunks_per_thread=1)
    turn(upper.indptr[:-1], upper.indptr[1:], upper.indices, upper.data, place, indices, data, True)
    turn(indptr[:-1], place.copy(), indices, data, place, indices, data, False)
    return compressed(indptr, indices, data, n)


@compiled
def _lengths(indptr, indices):  # type: ignore[no-untyped-def]
    """Return the number of entries in each row of the symmetric matrix, from its upper half."""
    lengths = np.diff(indptr).astype(np.int64)
    for i in range(len(lengths)):
        for p in range(indptr[i], indptr[i + 1]):
            if indices[p] != i:
                lengths[indices[p]] += 1
    return lengths


@compiled
def _write_transposed(start, stop, begins, ends, indices, data, place, to_indices, to_data, diagonal):  # type: ignore[no-untyped-def]
    """Write the entries (i, j) with j in `start` … `stop` - 1 as (j, i) to the next place of row j."""
    for i in range(len(begins)):
        for p in range(begins[i], ends[i]):
            j = indices[p]
            if start <= j < stop and (diagonal or i != j):
                to_indices[place[j]] = i
                to_data[place[j]] = data[p]
                place[j] += 1
