"""Cross agreement: the overlap between the neighbours of a part and those of the whole image."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from reidx.contracts import LabelSet, RefinerContext
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.exact import nearest
from reidx.labels.neighbours.sharding import nearest_sharded


class CrossAgreement:
    """The agreement of each part with the whole image, for PPLR's losses.

    Returns the labels unchanged, with ``agreement`` (N,P) added: float32 in [0, 1], per image and part.

    The agreement of image i and part p is |R_g ∩ R_p| / |R_g ∪ R_p|, where R_g and R_p are the ``k`` nearest neighbours of i
    (without i) by cosine, of the feature ``global`` and of the part's feature, among all N images including outliers.
    ``parts`` names the feature (N,P,D) that has the parts. The report has the mean of ``agreement`` over images and parts.
    The cost is 1 + P neighbour searches on ``device``; with ``sharded`` the processes of a distributed job share them.
    Source: PPLR (Cho et al., CVPR 2022), cross agreement score.

    Raises :class:`ValueError` for a k below 1.
    """

    provides = frozenset({"agreement"})
    reach = 0.0  # it reads no distance of the graph

    def __init__(
        self, k: int = 20, parts: str = "parts", device: str | None = None, sharded: bool = False
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; an image needs at least 1 neighbour.")
        self.k, self.parts, self.device, self.sharded = k, parts, device, sharded

    @classmethod
    def contract(cls, parts: str = "parts", **_: object) -> dict[str, frozenset[str]]:
        """Require the features of the whole image and of the parts."""
        return {"requires": frozenset({"global", parts})}

    def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
        whole = self.neighbours(context.features["global"])
        parts = [self.neighbours(part) for part in context.features[self.parts].unbind(1)]
        agreement = np.stack([overlap(whole, part) for part in parts], axis=1)
        return dataclasses.replace(
            labels,
            extra={**labels.extra, "agreement": agreement},
            report={**labels.report, "agreement": float(agreement.mean())},
        )

    def neighbours(self, features: Tensor) -> np.ndarray:
        """Return the indices (N,k) of each row's nearest other rows by cosine; N−1 of them if k is larger."""
        search = nearest_sharded if self.sharded else nearest
        _, indices = search(unit(checked(features)), self.k + 1, device=self.device)
        own = np.arange(len(indices))[:, None]
        return indices[indices != own].reshape(len(indices), -1)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a ∩ b| / |a ∪ b| (N,) float32 of each row's entries; the k entries of a row (N,k) are distinct."""
    together = np.sort(np.concatenate([a, b], axis=1), axis=1)
    common = (together[:, 1:] == together[:, :-1]).sum(1)
    return (common / (together.shape[1] - common)).astype(np.float32)
