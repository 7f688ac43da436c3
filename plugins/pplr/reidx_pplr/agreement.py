"""Cross agreement: do a part and the whole of an image have the same neighbours?"""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from reidx.contracts import LabelSet
from reidx.labels.neighbours import knn
from reidx.labels.pipeline import Labelling


class CrossAgreement:
    """Labels as they were, with ``agreement`` (N,P) float32 in [0, 1]: how far each part agrees with the whole image.

    ``agreement`` of image i and part p is |R_g ∩ R_p| / |R_g ∪ R_p|, where R are the ``k`` nearest neighbours of i, itself
    left out, by the cosine of the global or of the part's features, among all N images, outliers too (PPLR, LP section
    5.3). The report says its mean over images and parts. The cost is that of 1 + P searches for neighbours.

    Raises :class:`ValueError` for a k below 1.
    """

    requires = frozenset({"global", "parts"})
    provides = frozenset({"agreement"})

    def __init__(self, k: int = 20) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; an image needs at least 1 neighbour.")
        self.k = k

    def __call__(self, labels: LabelSet, context: Labelling) -> LabelSet:
        parts = context.bank["parts"]
        whole = others(context.bank["global"], self.k)
        agreement = np.stack([overlap(whole, others(parts[:, p], self.k)) for p in range(parts.shape[1])], axis=1)
        return dataclasses.replace(
            labels,
            extra={**labels.extra, "agreement": agreement},
            report={**labels.report, "agreement": float(agreement.mean())},
        )


def others(features: Tensor, k: int) -> np.ndarray:
    """The indices (N,k) of each row's nearest neighbours by cosine, the row itself left out; N−1 of them if k is more."""
    _, indices = knn(features, k + 1, metric="cosine")
    own = np.arange(len(indices))[:, None]
    return indices[indices != own].reshape(len(indices), -1)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a ∩ b| / |a ∪ b| (N,) float32 of each row's members; a row of (N,k) has k different ones."""
    together = np.sort(np.concatenate([a, b], axis=1), axis=1)
    common = (together[:, 1:] == together[:, :-1]).sum(1)
    return (common / (together.shape[1] - common)).astype(np.float32)
