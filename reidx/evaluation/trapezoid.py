"""Protocol with the AP of Market-1501's MATLAB code, the area under the precision-recall curve by the trapezoid rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from reidx.evaluation.protocols import Protocol


class Market1501Trapezoid(Protocol):
    """The usual protocol, with the AP of Market-1501's MATLAB code.

    The metric ``trapezoid_mAP`` is reported next to the standard ones. With M matches, the i-th at rank r_i, the AP of a query
    is the mean over i of (i / r_i + (i - 1) / (r_i - 1)) / 2, where the second fraction is 1 for r_i = 1: the area under the
    curve of precision over recall by the trapezoid rule. It is never larger than the standard AP, the mean of i / r_i. The mean
    is over all queries, and a query without a match has the AP 0 (Zheng et al., ICCV 2015, released code).
    """

    cameras: ClassVar[str] = "required"
    metrics = ("trapezoid_mAP",)
    denominators: ClassVar[Mapping[str, str]] = {"trapezoid_mAP": "all queries, 0 for one without a match"}

    def __init__(self) -> None:
        super().__init__("market1501_trapezoid", "1", camera_filter=True)

    def measure(
        self,
        distances: np.ndarray,
        ignored: np.ndarray,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """AP of each query by the trapezoid rule, 0 for one without a match."""
        order = np.argsort(np.where(ignored, np.inf, distances), axis=1, kind="stable")
        right = np.take_along_axis((gallery_ids == query_ids[:, None]) & ~ignored, order, axis=1)
        rank, found = np.arange(1, right.shape[1] + 1), right.cumsum(axis=1)
        ahead = (found - 1) / np.maximum(rank - 1, 1)
        ahead[:, :1] = 1
        area = np.where(right, (found / rank + ahead) / 2, 0.0).sum(axis=1)
        return {"trapezoid_mAP": area / np.maximum(right.sum(axis=1), 1)}
