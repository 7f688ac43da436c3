"""Five rules for the credible neighbours of an image; none of them needs all pairs at once.

Each takes unit features (N,D) and returns neighbours (N,M) int64, nearest first, padded with -1, without the image itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reidx import distributed
from reidx.labels import Jaccard
from reidx.labels.neighbours.candidates import exact_products
from reidx.labels.neighbours.sharding import nearest_sharded

_BLOCK = 1 << 24  # products at a time


def place() -> torch.device:
    """Return the device of the neighbour search: this process's GPU, if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def knn(features: Tensor, k: int, least: float | None) -> np.ndarray:
    """The k nearest; with ``least`` only those with a cosine of at least ``least`` (ECN: k = 6, no bound)."""
    lists, cosines = ranked(features, k)
    return packed(lists, np.ones(lists.shape, bool) if least is None else cosines >= least)


def mutual_knn(features: Tensor, k: int, least: float | None) -> np.ndarray:
    """Those of the k nearest that also have the image among their k nearest, with a cosine of at least ``least``, if given."""
    lists, cosines = ranked(features, k)
    mutual = (lists[lists] == np.arange(len(lists))[:, None, None]).any(2)
    return packed(lists, mutual if least is None else mutual & (cosines >= least))


def threshold(features: Tensor, above: float, size: int) -> np.ndarray:
    """The images with a cosine above ``above``, at most the ``size`` nearest."""
    lists, cosines = ranked(features, size)
    return packed(lists, cosines > above)


def cycle_prefix(features: Tensor, above: float, min_k: int, size: int) -> np.ndarray:
    """The nearest images, up to the first that ranks the image too low (label predictor of MMCL, CVPR 2020).

    m_i is the number of images with a cosine above ``above`` to image i, including i. Candidates are accepted in order, as
    long as i is among the first max(m_i, ``min_k``) of the candidate's own ranking, which begins with the candidate itself.
    The result has at most m_i - 1 and at most ``size`` of them. MMCL's released code allows i one place further back, and
    always accepts the nearest candidate.
    """
    lists, _ = ranked(features, size)
    count, ranks = _ranks_of_askers(features, lists, above)
    stays = np.logical_and.accumulate(ranks < np.maximum(count, min_k)[:, None], axis=1)
    return packed(lists, stays & (np.arange(lists.shape[1]) < count[:, None] - 1))


def k_reciprocal(features: Tensor, k1: int, k2: int, least: float, size: int) -> np.ndarray:
    """The ``size`` most similar images with a Jaccard similarity of k-reciprocal encodings of at least ``least``.

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
    """Return the k nearest other images (N,k) and their cosines; fewer columns if there are fewer images."""
    squared, lists = nearest_sharded(features, k + 1, device=place())
    return lists[:, 1:].astype(np.int64), 1.0 - squared[:, 1:] / 2.0


def packed(lists: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Move the kept entries of each row of ``lists`` (N,M) to its front, in their order, and pad with -1."""
    order = np.argsort(~kept, axis=1, kind="stable")
    moved = np.take_along_axis(np.where(kept, lists, -1), order, axis=1)
    return moved.astype(np.int64)


def _ranks_of_askers(features: Tensor, lists: np.ndarray, above: float) -> tuple[np.ndarray, np.ndarray]:
    """Count the images (N,) with a cosine above ``above``, and the images (N,M) nearer to each candidate than the image is.

    One pass over the rows of all products, in blocks; the row of a candidate gives the ranks for all images that list it.
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
