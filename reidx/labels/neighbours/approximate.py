"""Approximate neighbours for banks on which N² products take too long: an inverted file (backend "ivf").

The rows are divided among 4·√N cells by k-means, and a row is compared with the rows of the P cells nearest to it. A
neighbour in another cell is missed, and how many are depends on the features: so P is the least number of cells that
hold 95 % of the true neighbours of 500 rows, which are compared with all. What is found is ordered by the canonical
distances as always, and each search measures its recall on 200 other rows and logs it.

The rows that look into one cell do so together, as one matrix product. Cost: 2·N·D operations for each of the 4·√N
cells and of the P·√N / 4 rows compared with; memory one block of rows and a sorted copy of the bank.
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
_FIRST = 8  # cells nearest to a row are looked into before the others, so that most of what those hold is refused
_PRODUCTS = 1 << 24  # at a time, for any number of queries and rows of a cell
BLOCK = 1 << 18
"""Queries per block: enough for a matrix product in each cell."""


def ivf(
    gallery: Tensor, queries: Tensor, k: int, dtype: torch.dtype
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function from query rows to a few more than `k` candidates (B, C), -1 where there are fewer, and a floor that
    accepts them.

    Products are computed in `dtype`.
    """
    count = k + _MORE
    gallery, queries = _centred(gallery, queries)
    centres = _centres(gallery.numpy()).to(dtype)
    owner = torch.cat([_cells(rows.to(dtype), centres, 1)[:, 0] for rows in gallery.split(BLOCK)])
    probed = _probed(gallery, queries, k, centres, owner)
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
            asking, starts = _by_cell(part, len(centres))
            for cell, (low, high) in enumerate(pairwise(edges)):
                for first in range(int(starts[cell]), int(starts[cell + 1]) if low < high else 0, together):
                    who = asking[first : min(first + together, starts[cell + 1])]
                    chosen = torch.index_select(x, 0, torch.from_numpy(who), out=gathered[: len(who)])
                    shape = len(who), high - low
                    product = products[: shape[0] * shape[1]].view(shape)
                    torch.mm(chosen, features[low:high].T, out=product)
                    score = scores[: product.numel()].view(shape).copy_(product).sub_(halves[low:high])
                    lists.show(who, score.numpy(), low)
        where, _ = lists.best()
        found = numbers[where]
        found[where < 0] = -1
        # A row with too few candidates is compared with all rows next.
        return found, np.full(len(rows), np.inf)

    return propose


def _centred(gallery: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Centre both on the gallery's mean if that shortens its rows much, since products of shorter rows are more exact."""
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
    """The `count` cells (B, count) nearest to each row, nearest first."""
    halves = (centres.float() ** 2).sum(1) / 2
    return torch.cat(
        [
            ((rows @ centres.T).float() - halves).topk(count, dim=1).indices.int()
            for rows in x.split(4096)
        ]
    )


def _probed(gallery: Tensor, queries: Tensor, k: int, centres: Tensor, owner: Tensor) -> int:
    """The least number of cells nearest to a row in which the aimed share of its true neighbours lies."""
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
    """The rows that probe each cell, one cell after the other, and where each begins."""
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
