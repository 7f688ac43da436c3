"""Re-ranking of the first results of a search by k-reciprocal neighbours among them."""

from __future__ import annotations

import numpy as np
import torch

from reidx.evaluation.k_reciprocal import KReciprocal


def reranked_order(query: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the order (C,) of the candidates (C,D) of a query (D,) by their re-ranked distance, nearest first.

    Distances are those of Zhong et al. (CVPR 2017) with the paper's k1=20, k2=6, lambda=0.3, but neighbours are searched
    among the candidates and the query alone, not in the whole gallery. Equal distances keep the order of the candidates.
    """
    one, many = torch.from_numpy(query[None]), torch.from_numpy(candidates)
    factor, offset = KReciprocal()(one, many).block(slice(0, 1))
    squared = ((query.astype(np.float64) - candidates) ** 2).sum(axis=1)
    return np.argsort(factor[0] * squared + offset[0], kind="stable")
