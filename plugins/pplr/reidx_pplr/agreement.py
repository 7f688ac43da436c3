"""Cross agreement: do a part and the whole of an image have the same neighbours?"""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from reidx.contracts import LabelSet, RefinerContext
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.exact import nearest
from reidx.labels.neighbours.sharding import nearest_together


class CrossAgreement:
    """The agreement of each part with the whole image, for PPLR's losses.

    Labels as they were, with ``agreement`` (N,P) float32 in [0, 1]: how far each part agrees with the whole image.

    ``agreement`` of image i and part p is |R_g ∩ R_p| / |R_g ∪ R_p|, where R are the ``k`` nearest neighbours of i, itself
    left out, by the cosine of the feature ``global`` or of the part's, among all N images, outliers too (PPLR, LP section
    5.3). ``parts`` names the feature (N,P,D) that has the parts. The report says the mean of ``agreement`` over images and
    parts. The cost is that of 1 + P searches for neighbours, made on ``device``; with ``sharded`` the processes of a
    distributed job share them.

    Raises :class:`ValueError` for a k below 1.
    """

    provides = frozenset({"agreement"})
    reach = 0.0  # it looks at no distance of the graph

    def __init__(
        self, k: int = 20, parts: str = "parts", device: str | None = None, sharded: bool = False
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; an image needs at least 1 neighbour.")
        self.k, self.parts, self.device, self.sharded = k, parts, device, sharded
        self.requires = self.contract(parts=parts)["requires"]

    @classmethod
    def contract(cls, parts: str = "parts", **_: object) -> dict[str, frozenset[str]]:
        """It compares the whole with the parts."""
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
        """The indices (N,k) of each row's nearest others by cosine; N−1 of them if k is more."""
        search = nearest_together if self.sharded else nearest
        _, indices = search(unit(checked(features)), self.k + 1, device=self.device)
        own = np.arange(len(indices))[:, None]
        return indices[indices != own].reshape(len(indices), -1)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a ∩ b| / |a ∪ b| (N,) float32 of each row's members; a row of (N,k) has k different ones."""
    together = np.sort(np.concatenate([a, b], axis=1), axis=1)
    common = (together[:, 1:] == together[:, :-1]).sum(1)
    return (common / (together.shape[1] - common)).astype(np.float32)
