"""k-reciprocal Jaccard distance and DBSCAN in the field's usual form: dense N x N arrays and a Python loop per image.

The formulas are those of `reidx.labels.distances.jaccard`, arranged as in the papers' code bases: neighbour lists from
faiss, one dense encoding row per image, a dense average over the neighbours, and for the sum one pass per image over the
images that share a column with it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def neighbour_lists(features: Tensor, k: int) -> np.ndarray:
    """Return the k nearest rows (N, min(k, N)), each row first in its own list; ties by index; computed in blocks."""
    lists = []
    exact = features.double()
    squares = (exact**2).sum(dim=1)
    for start in range(0, len(exact), 512):
        block = exact[start : start + 512]
        distances = squares[start : start + 512, None] + squares - 2 * block @ exact.T
        # rounding is below the resolution of float32 features, and equal rows then tie exactly
        distances = (distances / 1e-9).round() * 1e-9
        distances[torch.arange(len(block)), torch.arange(start, start + len(block))] = -1
        lists.append(distances.sort(dim=1, stable=True).indices[:, :k].numpy())
    return np.concatenate(lists) if lists else np.zeros((0, 0), np.int64)


def faiss_lists(features: Tensor, k: int) -> np.ndarray:
    """Return the same lists from a flat faiss index, as the code bases do; ties in faiss's order."""
    import faiss

    x = features.numpy()
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    return index.search(x, k)[1]


def jaccard_distance(
    features: Tensor, k1: int = 30, k2: int = 6, lists: np.ndarray | None = None
) -> np.ndarray:
    """Return the dense distance matrix (N, N) float32 of unit features."""
    n = len(features)
    rank = faiss_lists(features, k1) if lists is None else lists

    def reciprocal(i: int, width: int) -> np.ndarray:
        forward = rank[i, :width]
        return forward[np.where(rank[forward, :width] == i)[0]]

    whole = [reciprocal(i, k1) for i in range(n)]
    half = [reciprocal(i, int(np.around(k1 / 2)) + 1) for i in range(n)]
    encodings = np.zeros((n, n), np.float32)
    for i in range(n):
        expanded = whole[i]
        for candidate in whole[i]:
            other = half[candidate]
            if len(np.intersect1d(other, whole[i])) > 2 / 3 * len(other):
                expanded = np.append(expanded, other)
        expanded = np.unique(expanded)
        similarity = features[i : i + 1] @ features[torch.from_numpy(expanded)].T
        encodings[i, expanded] = torch.softmax(-(2 - 2 * similarity), dim=1).numpy()[0]
    if k2 != 1:
        averaged = np.zeros_like(encodings)
        for i in range(n):
            averaged[i] = encodings[rank[i, :k2]].mean(axis=0)
        encodings = averaged
    having = [np.where(encodings[:, t] != 0)[0] for t in range(n)]
    distances = np.zeros((n, n), np.float32)
    for i in range(n):
        shared = np.zeros(n, np.float32)
        for t in np.where(encodings[i] != 0)[0]:
            shared[having[t]] += np.minimum(encodings[i, t], encodings[having[t], t])
        distances[i] = 1 - shared / (2 - shared)
    return np.maximum(distances, 0)


def dbscan(distances: np.ndarray, eps: float = 0.6, min_samples: int = 4) -> np.ndarray:
    """Return scikit-learn's DBSCAN labels of a dense distance matrix."""
    from sklearn.cluster import DBSCAN

    return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed", n_jobs=-1).fit_predict(distances)
