"""The k-reciprocal Jaccard distance, exact and sparse.

Source: Zhong et al., "Re-ranking person re-identification with k-reciprocal encoding", CVPR 2017, in the form that
clustering-based re-ID uses. With S(i) the first k1 neighbours of i, itself included:

    R(i)    = {j in S(i) : i in S(j)}, and Rh(i) the same on the first round(k1/2) + 1 neighbours
    E(i)    = R(i) with every Rh(c), c in R(i), of which more than 2/3 lies in R(i)
    V(i, j) = exp(-|f_i - f_j|²), j in E(i), divided by the row's sum;  then averaged over the first k2 neighbours of i
    d(i, j) = 1 - s / (2 - s),  s = sum_t min(V(i, t), V(j, t))

Cost after the neighbours: N·k1² for the lists, and for the sum the number of pairs of rows that share a column, found
by an inverted index. Where images fall into clusters those are few; without any, or with one column in the encodings
of all (a network that maps every image to one point), nearly all N·N pairs share one, and are stored unless `within`
cuts them.
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
from reidx.labels.neighbours.sharding import nearest_together
from reidx.machine.free_memory import free_memory

_LARGE = 4_000  # rows; the graph of all pairs of fewer takes no more than 200 MB
_BYTES = 14  # of an entry at the peak: in the half, in a range of it not yet put together, and in the whole
_MOST = 2e9  # bytes of a graph in which nearly all are near each other
_NEAR = 0.5  # images that merely share some neighbours are farther; equal ones at 0.29 if there are many
_LOOKS = 4e11  # at pairs of entries in one column: some minutes


class Jaccard:
    """k-reciprocal Jaccard distances; the usual choice before clustering.

    Features (N, D) to the sparse graph of their k-reciprocal Jaccard distances, float32 in [0, 1).

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

    def __call__(self, features: Tensor, within: float = 1.0, among: csr_array | None = None) -> csr_array:
        """The graph (N, N): symmetric, diagonal stored, every pair closer than 1 stored that is not beyond `within`.

        With `among`, a symmetric graph of the same images, only of the pairs that are stored there.
        """
        return jaccard(self.encodings(unit(checked(features))), within=within, among=among)

    def encodings(self, features: Tensor) -> csr_array:
        """The k-reciprocal encodings (N, N) of unit features (N, D)."""
        squared, lists = self.nearest(features, self.k1)
        return encode(features, squared, lists, self.k1, round(self.k1 / 2) + 1, self.k2)

    def nearest(self, features: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances (N, k) and indices (N, k) of the nearest rows, by the backend and the processes chosen."""
        search = nearest_together if self.sharded else nearest
        return search(features, k, backend=self.backend, device=self.device)


def jaccard(encodings: csr_array, within: float = 1.0, among: csr_array | None = None) -> csr_array:
    """The distances (N, N) of all encodings, float32, exactly symmetric.

    Distances of 1, those beyond `within`, and of pairs not stored in `among` (symmetric) are left out.
    """
    n = encodings.shape[0]
    by_column = encodings.tocsc()  # the inverted index: for a column, the rows that have it, ascending
    if among is not None and among.shape != (n, n):
        raise DataError(f"Jaccard: the pairs asked for are of {among.shape[0]} images, the features of {n}.")
    asked = _asked(among if among is None else checked_graph(among, n, "Jaccard: the pairs asked for"))
    if n > _LARGE:
        _refuse_crowd(encodings, by_column, within, asked)
    parts = in_threads(
        _share, n, encodings.indptr, encodings.indices, encodings.data,
        by_column.indptr, by_column.indices, by_column.data, True, np.float32(within), *asked, chunks_per_thread=16,
    )  # fmt: skip
    return _mirrored(stacked(parts, n))


def jaccard_between(queries: csr_array, gallery: csc_array) -> csr_array:
    """The distances (Q, G) of the encodings (Q, N) to the encodings (G, N), float32; distances of 1 are left out."""
    parts = in_threads(
        _share, queries.shape[0], queries.indptr, queries.indices, queries.data,
        gallery.indptr, gallery.indices, gallery.data, False, np.float32(1), *_asked(None),
    )  # fmt: skip
    return stacked(parts, gallery.shape[0])


def _asked(among: csr_array | None) -> tuple[np.ndarray, np.ndarray]:
    """The pairs stored in `among`, in the index type of the loop; empty for all pairs."""
    if among is None:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    return among.indptr.astype(np.int64, copy=False), among.indices.astype(np.int32, copy=False)


@compiled
def _share(start, stop, indptr, indices, data, col_indptr, col_rows, col_data, half, within, asked_indptr, asked_rows):  # type: ignore[no-untyped-def]
    """Row i's distances to the rows j it shares a column with; with `half` only those with j >= i."""
    n = len(col_indptr) - 1
    all_pairs = len(asked_indptr) == 0
    asked_by = np.full(0 if all_pairs else n, -1, np.int32)
    shared = np.zeros(n, np.float32)
    touched = np.empty(n, np.int32)
    lengths = np.zeros(stop - start, np.int64)
    columns, values = room_for(64 * (stop - start), np.empty(0, np.int32), np.empty(0, np.float32))
    filled = 0
    for i in range(start, stop):
        if not all_pairs:
            for p in range(asked_indptr[i], asked_indptr[i + 1]):
                asked_by[asked_rows[p]] = i
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
            if distance < 1 and distance <= within and (all_pairs or asked_by[j] == i):
                columns[filled] = j
                values[filled] = distance
                filled += 1
                lengths[i - start] += 1
    return lengths, columns[:filled].copy(), values[:filled].copy()


def _refuse_crowd(
    encodings: csr_array, by_column: csr_array, within: float, asked: tuple[np.ndarray, np.ndarray]
) -> None:
    """Raise :class:`DataError` if a sample of rows has so many entries that the whole graph would not fit into memory.

    Also for a graph of more than `_MOST` bytes in which an image has a tenth of all others near it, and for more than
    `_LOOKS` looks at pairs: the result would be a few giant clusters at best.
    """
    n = encodings.shape[0]
    looks = float((np.diff(by_column.indptr).astype(np.float64) ** 2).sum())
    parts = [
        _share(
            row, row + 1, encodings.indptr, encodings.indices, encodings.data,
            by_column.indptr, by_column.indices, by_column.data, False, np.float32(within), *asked,
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
        f"Jaccard: the average image has {mean:,.0f} of {n:,} images within distance {within:g}: {reason}. The features lie "
        "too close together: the network may have collapsed (lower its learning rate, or start from better weights); else "
        "lower the clusterer's eps, or k1."
    )


def _mirrored(upper: csr_array) -> csr_array:
    """The symmetric matrix whose upper half, diagonal included, is given; columns ascending in each row.

    Twice a half is turned over, rows ascending, so that each row receives its columns in order: the upper one gives
    the lower one and the diagonal, and that, without the diagonal, the rest.
    """
    n = upper.shape[0]
    indptr = np.concatenate([[0], np.cumsum(_lengths(upper.indptr, upper.indices))])
    indices, data = np.empty(indptr[-1], upper.indices.dtype), np.empty(indptr[-1], upper.data.dtype)
    place = indptr[:-1].copy()
    turn = partial(in_threads, _turned, n, chunks_per_thread=1)
    turn(upper.indptr[:-1], upper.indptr[1:], upper.indices, upper.data, place, indices, data, True)
    turn(indptr[:-1], place.copy(), indices, data, place, indices, data, False)
    return compressed(indptr, indices, data, n)


@compiled
def _lengths(indptr, indices):  # type: ignore[no-untyped-def]
    """Number of entries in each row of the symmetric matrix, from its upper half."""
    lengths = np.diff(indptr).astype(np.int64)
    for i in range(len(lengths)):
        for p in range(indptr[i], indptr[i + 1]):
            if indices[p] != i:
                lengths[indices[p]] += 1
    return lengths


@compiled
def _turned(start, stop, begins, ends, indices, data, place, to_indices, to_data, diagonal):  # type: ignore[no-untyped-def]
    """Write the entries (i, j) with j in `start` … `stop` - 1 as (j, i) to the next place of row j."""
    for i in range(len(begins)):
        for p in range(begins[i], ends[i]):
            j = indices[p]
            if start <= j < stop and (diagonal or i != j):
                to_indices[place[j]] = i
                to_data[place[j]] = data[p]
                place[j] += 1
