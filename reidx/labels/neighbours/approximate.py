"""Approximate neighbours by an inverted file (backend "ivf"), for feature sets on which N² products take too long.

K-means divides the rows into 4·√N cells, and a row is compared with the rows of the P cells nearest to it. Neighbours in
other cells are missed; their number depends on the features. P is the least number of cells that hold 95 % of the true
neighbours of 500 sampled rows, which are compared with all rows. Neighbours are ordered by the canonical distances, as in
the exact searches. Each search measures its recall on 200 other rows and logs it.

All rows that probe a cell share one matrix product. Cost: 2·N·D operations for each of the 4·√N cells and of the
P·√N / 4 rows that a row is compared with; memory: one block of rows and a sorted copy of the features.
Source: Sivic and Zisserman, "Video Google", ICCV 2003, for the inverted file.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from reidx.errors import ConfigError
from reidx.labels.compiled import compiled, faiss_threads, has_faiss
from reidx.labels.neighbours.shortlists import Shortlists

AIM = 0.95
_SAMPLED = 500
_MORE = 24  # candidates beyond k, because products are rounded
_TRAINED_ON = 64  # rows a cell, for the k-means
_FIRST = 8  # nearest cells, which are probed before the others, so that most rows of the others are rejected
_PRODUCTS = 1 << 24  # maximum number of products at a time
BLOCK = 1 << 18
"""Queries per block: enough for a matrix product in each cell."""


def ivf(
    gallery: Tensor, queries: Tensor, k: int, dtype: torch.dtype
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Build a function from query rows to candidates (B, C) and to an infinite floor, so that the candidates are accepted.

    There are a few more candidates than `k`, -1 where fewer were found. Products are computed in `dtype`.
    """
    count = k + _MORE
    gallery, queries = _centred(gallery, queries)
    centres = _centres(gallery.numpy()).to(dtype)
    owner = torch.cat([_cells(rows.to(dtype), centres, 1)[:, 0] for rows in gallery.split(BLOCK)])
    probed = _cells_to_probe(gallery, queries, k, centres, owner)
    members = torch.argsort(owner, stable=True)
    features = torch.cat([gallery[chosen].to(dtype) for chosen in members.split(BLOCK)])
    halves = torch.cat([(rows.float() ** 2).sum(1) / 2 for rows in features.split(BLOCK)])
    edges = np.concatenate([[0], np.bincount(owner.numpy(), minlength=len(centres)).cumsum()])
    widest, numbers = int(np.diff(edges).max()), members.numpy().astype(np.int32)

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = queries[torch.from_numpy(rows)].to(dtype)
        cells = _cells(x, centres, probed).numpy()
        together = min(len(x), max(64, _PRODUCTS // widest))  # one cell may hold most of the bank
        scores = torch.empty(together * widest, dtype=torch.float32)
        products = torch.empty_like(scores, dtype=dtype)
        gathered = torch.empty(together, x.shape[1], dtype=dtype)
        lists = Shortlists(len(rows), count)
        for part in (cells[:, :_FIRST], cells[:, _FIRST:]):
            query_rows, starts = _by_cell(part, len(centres))
            for cell, (low, high) in enumerate(pairwise(edges)):
                for first in range(int(starts[cell]), int(starts[cell + 1]) if low < high else 0, together):
                    who = query_rows[first : min(first + together, starts[cell + 1])]
                    chosen = torch.index_select(x, 0, torch.from_numpy(who), out=gathered[: len(who)])
                    shape = len(who), high - low
                    product = products[: shape[0] * shape[1]].view(shape)
                    torch.mm(chosen, features[low:high].T, out=product)
                    score = scores[: product.numel()].view(shape).copy_(product).sub_(halves[low:high])
                    lists.add(who, score.numpy(), low)
        where, _ = lists.best()
        found = numbers[where]
        found[where < 0] = -1
        # a row with too few candidates is compared with all rows later
        return found, np.full(len(rows), np.inf)

    return propose


def _centred(gallery: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the gallery's mean from both if that shortens its rows considerably: products are then more exact."""
    middle = gallery[:4096].mean(0)
    around = max(float(torch.linalg.vector_norm(rows - middle, dim=1).max()) for rows in gallery.split(4096))
    if 2 * around > float(torch.linalg.vector_norm(gallery, dim=1).max()):
        return gallery, queries
    apart = gallery - middle
    return apart, apart if queries is gallery else queries - middle


def _centres(x: np.ndarray) -> Tensor:
    if not has_faiss():
        raise ConfigError("knn: backend ivf needs faiss: pip install faiss-cpu.")
    import faiss

    cells = max(1, min(int(4 * len(x) ** 0.5), len(x) // _TRAINED_ON))
    with faiss_threads():
        means = faiss.Kmeans(
            x.shape[1], cells, niter=10, seed=1, min_points_per_centroid=1, max_points_per_centroid=_TRAINED_ON
        )
        means.train(x)
    return torch.from_numpy(means.centroids)


def _cells(x: Tensor, centres: Tensor, count: int) -> Tensor:
    """Return the `count` cells (B, count) nearest to each row, nearest first."""
    halves = (centres.float() ** 2).sum(1) / 2
    return torch.cat(
        [
            ((rows @ centres.T).float() - halves).topk(count, dim=1).indices.int()
            for rows in x.split(4096)
        ]
    )


def _cells_to_probe(gallery: Tensor, queries: Tensor, k: int, centres: Tensor, owner: Tensor) -> int:
    """Return the least number of nearest cells that contain the share :data:`AIM` of a row's true neighbours."""
    import faiss

    spread = torch.linspace(0, len(queries) - 1, min(_SAMPLED, len(queries)), dtype=torch.float64)
    sample = queries[spread.long()]
    with faiss_threads():
        true = torch.from_numpy(faiss.knn(sample.numpy(), gallery.numpy(), min(k, len(gallery)))[1])
    order = _cells(sample.to(centres.dtype), centres, len(centres)).long()
    place = torch.empty_like(order).scatter_(1, order, torch.arange(len(centres)).expand_as(order))
    places = place.gather(1, owner[true]).flatten().sort().values
    return int(places[int(np.ceil(AIM * len(places))) - 1]) + 1


@compiled
def _by_cell(cells, number):  # type: ignore[no-untyped-def]
    """Return the rows that probe each cell, sorted by cell, and the start of each cell."""
    starts = np.zeros(number + 1, np.int64)
    for r in range(cells.shape[0]):
        for p in range(cells.shape[1]):
            starts[cells[r, p] + 1] += 1
    for c in range(number):
        starts[c + 1] += starts[c]
    rows, filled = np.empty(cells.size, np.int32), starts[:number].copy()
    for r in range(cells.shape[0]):
        for p in range(cells.shape[1]):
            c = cells[r, p]
            rows[filled[c]] = r
            filled[c] += 1
    return rows, starts
