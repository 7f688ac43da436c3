"""Refiner that finds each image's credible samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from reidx.contracts import LabelSet, RefinerContext
from reidx.labels.features import checked, unit
from reidx_global_patch import rules
from reidx_global_patch.fusion import fused

Kind = Literal["mutual_knn", "knn", "cycle_prefix", "threshold", "k_reciprocal"]

K: dict[str, int] = {"mutual_knn": 10, "knn": 6, "k_reciprocal": 20}
T: dict[str, float] = {"cycle_prefix": 0.6, "threshold": 0.6, "k_reciprocal": 0.5}


class CredibleSamples:
    """The most credible neighbours of each image, for GSL.

    Adds ``neighbours`` (N, ``max_size``) int64 to the labels: each image's credible samples, nearest first, padded with -1.

    An image is never its own sample. ``kind`` selects the rule (:mod:`reidx_global_patch.rules`); the paper's abstract does
    not define it:

    * ``mutual_knn``: both images are among each other's ``k`` (10) nearest, and their cosine is at least ``t``, if given;
    * ``knn``: one of the ``k`` (6) nearest, also with an optional ``t`` (ECN, CVPR 2019);
    * ``cycle_prefix``: MMCL's label predictor (CVPR 2020) with ``t`` (0.6) and ``min_k``;
    * ``threshold``: a cosine above ``t`` (0.6);
    * ``k_reciprocal``: a Jaccard similarity of the k-reciprocal encodings (``k`` 20, ``k2``) of at least ``t`` (0.5).

    ``similarity`` selects the cosines: ``global`` uses the level's own features (with ``labels: {memory: …}`` the content of
    that memory), ``patch`` the mean over the extracted patches, and ``fused`` their weighted mean, with ``fusion_lambda`` as
    the weight of ``global``. ``exclude_same_camera`` removes images of the image's own camera at the end. An image with
    features of all zeros (a slot not written yet) has no neighbours and is no neighbour of others.

    Raises :class:`ValueError` for an invalid number.
    """

    provides = frozenset({"neighbours"})

    def __init__(
        self,
        kind: Kind = "mutual_knn",
        k: int | None = None,
        t: float | None = None,
        min_k: int = 10,
        k2: int = 6,
        max_size: int = 20,
        similarity: Literal["global", "patch", "fused"] = "global",
        fusion_lambda: float = 0.5,
        exclude_same_camera: bool = False,
    ) -> None:
        for name, number in (("k", k), ("min_k", min_k), ("k2", k2), ("max_size", max_size)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1.")
        if not 0.0 <= fusion_lambda <= 1.0:
            raise ValueError(f"fusion_lambda is a share, from 0 to 1, not {fusion_lambda}.")
        if k is not None and kind not in K:
            raise ValueError(f"kind: {kind} takes no k; leave it out.")
        self.kind, self.min_k, self.k2, self.max_size = kind, min_k, k2, max_size
        self.k = k or K.get(kind, 0)
        self.t = T.get(kind) if t is None else t
        self.similarity, self.fusion_lambda = similarity, fusion_lambda
        self.exclude_same_camera = exclude_same_camera

    @classmethod
    def contract(
        cls, similarity: str = "global", exclude_same_camera: bool = False, **_: object
    ) -> dict[str, Any]:
        """Requires ``patch`` for a similarity of patches, and cameras for ``exclude_same_camera``."""
        return {"requires": _needed(similarity), "cameras": "required" if exclude_same_camera else "unused"}

    def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
        features = self._compared(context)
        known = np.flatnonzero(features.abs().amax(1).numpy() > 0)
        found = self._found(unit(features[known]))
        # from indices among the known images to indices of all images
        neighbours = np.full((len(features), self.max_size), -1, np.int64)
        width = min(self.max_size, found.shape[1])
        named = np.append(known, -1)[found]  # the appended -1 is the entry for the index -1
        if self.exclude_same_camera:
            cameras = np.append(context.cameras, -1)
            named = rules.packed(named, (named >= 0) & (cameras[named] != cameras[known][:, None]))
        neighbours[known, :width] = named[:, :width]
        sizes = (neighbours >= 0).sum(1)
        report = {"credible": float(sizes.mean()), "without_credible": float((sizes == 0).mean())}
        return replace(
            labels, extra={**labels.extra, "neighbours": neighbours}, report={**labels.report, **report}
        )

    def _compared(self, context: RefinerContext) -> Tensor:
        """The features (N,D) whose cosines the rule compares."""
        if self.similarity == "global":
            return checked(context.features[context.feature])
        patch = F.normalize(context.features["patch"].float(), dim=2)
        if self.similarity == "patch":
            return checked(fused(None, patch, 0.0))
        return checked(fused(F.normalize(context.features[context.feature].float()), patch, self.fusion_lambda))

    def _found(self, features: Tensor) -> np.ndarray:
        if self.kind == "knn":
            return rules.knn(features, self.k, self.t)
        if self.kind == "mutual_knn":
            return rules.mutual_knn(features, self.k, self.t)
        assert self.t is not None
        if self.kind == "threshold":
            return rules.threshold(features, self.t, self.max_size)
        if self.kind == "cycle_prefix":
            return rules.cycle_prefix(features, self.t, self.min_k, self.max_size)
        return rules.k_reciprocal(features, self.k, self.k2, self.t, self.max_size)


def _needed(similarity: str) -> frozenset[str]:
    """The features to extract in addition to the level's own."""
    return frozenset() if similarity == "global" else frozenset({"patch"})
