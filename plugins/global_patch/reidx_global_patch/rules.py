"""Which images are credible neighbours of an image: five rules, none of which needs all pairs at once.

Each takes unit features (N,D) and gives neighbours (N,M) int64, nearest first, padded with -1, an image never its own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reidx import distributed
from reidx.labels import Jaccard
from reidx.labels.neighbours.candidates import exact_products
from reidx.labels.neighbours.sharding import nearest_together

_BLOCK = 1 << 24  # products at a time


def place() -> torch.device:
    """Where neighbours are searched: on this process's GPU, if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def knn(features: Tensor, k: int, least: float | None) -> np.ndarray:
    """The k nearest; with ``least`` those of them whose cosine is at least that (ECN: k = 6, no bound)."""
    lists, cosines = ranked(features, k)
    return packed(lists, np.ones(lists.shape, bool) if least is None else cosines >= least)


def mutual_knn(features: Tensor, k: int, least: float | None) -> np.ndarray:
    """Those of the k nearest who have the image among their k nearest, and a cosine of at least ``least`` if given."""
    lists, cosines = ranked(features, k)
    mutual = (lists[lists] == np.arange(len(lists))[:, None, None]).any(2)
    return packed(lists, mutual if least is None else mutual & (cosines >= least))


def threshold(features: Tensor, above: float, size: int) -> np.ndarray:
    """Those whose cosine is larger than ``above``, at most the ``size`` nearest of them."""
    lists, cosines = ranked(features, size)
    return packed(lists, cosines > above)


def cycle_prefix(features: Tensor, above: float, min_k: int, size: int) -> np.ndarray:
    """The nearest up to the first who does not rank the image high enough (MMCL's label predictor, section 1.4).

    m_i is the number of images, itself included, whose cosine with i is larger than ``above``. A candidate stays while i
    is among the first max(m_i, ``min_k``) in its own ranking, which it heads itself; of those who stay, the first
    m_i - 1 are taken, and at most ``size``. MMCL's released code lets i be one place further back, and takes the nearest
    one in any case.
    """
    lists, _ = ranked(features, size)
    count, ranks = _ranks_of_askers(features, lists, above)
    stays = np.logical_and.accumulate(ranks < np.maximum(count, min_k)[:, None], axis=1)
    return packed(lists, stays & (np.arange(lists.shape[1]) < count[:, None] - 1))


def k_reciprocal(features: Tensor, k1: int, k2: int, least: float, size: int) -> np.ndarray:
    """Those whose k-reciprocal encoding has a Jaccard similarity of at least ``least``, at most the ``size`` most similar.

    The encodings are those of :class:`reidx.labels.Jaccard` with ``k1`` and ``k2``.
    """
    n = len(features)
    distance = Jaccard(k1, min(k1, k2), device=str(place()), sharded=distributed.count() > 1)
    graph = distance(features, within=1.0 - least).tocoo()
    others = graph.row != graph.col
    rows, columns, distances = graph.row[others], graph.col[others], graph.data[others]
    order = np.lexsort((columns, distances, rows))
    rows, columns = rows[order], columns[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = places < size
    neighbours = np.full((n, size), -1, np.int64)
    neighbours[rows[kept], places[kept]] = columns[kept]
    return neighbours


def ranked(features: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest others (N,k) of each image, fewer columns where there are no more, and their cosines."""
    squared, lists = nearest_together(features, k + 1, device=place())
    return lists[:, 1:].astype(np.int64), 1.0 - squared[:, 1:] / 2.0


def packed(lists: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The lists (N,M) with what is kept moved to the front of each row, in its order, and -1 after it."""
    order = np.argsort(~kept, axis=1, kind="stable")
    moved = np.take_along_axis(np.where(kept, lists, -1), order, axis=1)
    return moved.astype(np.int64)


def _ranks_of_askers(features: Tensor, lists: np.ndarray, above: float) -> tuple[np.ndarray, np.ndarray]:
    """How many images (N,) lie nearer to each than ``above``, and how many (N,M) a candidate finds nearer than the asker.

    One pass over the rows of all products, in blocks; a candidate's row tells its ranks of all who ask for it.
    """
    n, width = lists.shape
    asked = torch.from_numpy(lists.reshape(-1))
    pairs = torch.argsort(asked, stable=True)  # by candidate
    borders = torch.searchsorted(asked[pairs].contiguous(), torch.arange(n + 1)).tolist()
    count, ranks = torch.empty(n, dtype=torch.int64), torch.empty(n * width, dtype=torch.int64)
    x = features.to(place())
    rows = max(1, _BLOCK // n)
    with exact_products():
        for start in range(0, n, rows):
            stop = min(start + rows, n)
            products = x[start:stop] @ x.T
            count[start:stop] = (products > above).sum(1).cpu()
            for some in pairs[borders[start] : borders[stop]].split(rows):
                row = products[(asked[some] - start).to(x.device)]
                own = row.gather(1, (some // width).to(x.device)[:, None])
                ranks[some] = (row > own).sum(1).cpu()
    return count.numpy(), ranks.view(n, width).numpy()
