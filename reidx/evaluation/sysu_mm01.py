"""Protocol of SYSU-MM01: infrared queries, galleries drawn from the visible images, CMC over identities."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from reidx.contracts import Trial
from reidx.errors import DataError
from reidx.evaluation.protocols import JUNK, Protocol

CAMERAS = {"all": (0, 1, 3, 4), "indoor": (0, 1)}
"""Visible cameras of each search, from 0."""
SHOTS = {"single": 1, "multi": 10}
"""Gallery images of each person and camera."""


class SYSUMM01(Protocol):
    """SYSU-MM01's search across modalities, as the mean of 10 trials.

    Trial t = 0..9 draws the gallery with seed t: of each person one random image (``shots: multi``: ten) from each visible
    camera; ``search: indoor`` has cameras 1 and 2 only. Infrared camera 3 was at the place of camera 2, so queries from
    camera 3 ignore images from camera 2. rank-k is the share of queries whose person is among the first k different people of
    the ranking; mAP and mINP count images. The result is the mean over the trials (Wu et al., ICCV 2017).

    The draws are those of released code for galleries in the order of person, camera and file name.
    """

    cameras: ClassVar[str] = "required"
    metrics = ("rank-1", "rank-5", "rank-10", "rank-20")

    def __init__(
        self, search: Literal["all", "indoor"] = "all", shots: Literal["single", "multi"] = "single", trials: int = 10
    ) -> None:
        if trials < 1:
            raise ValueError(f"trials is {trials}; at least 1 is needed")
        super().__init__("sysu_mm01", "1", camera_filter=False, settings={"search": search, "shots": shots})
        self.count = trials

    def ignored(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> np.ndarray:
        """Bool (Q, G): images from camera 2 for queries from camera 3, of any person."""
        usual = super().ignored(query_ids, gallery_ids, query_cams, gallery_cams)
        return usual | ((query_cams[:, None] == 2) & (gallery_cams == 1))

    def draw_trials(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> Iterator[Trial]:
        """All queries, and the drawn images of each person and visible camera; raises DataError if there are none."""
        searched = np.isin(gallery_cams, CAMERAS[self.settings["search"]]) & (gallery_ids != JUNK)
        groups: dict[tuple[int, int], list[int]] = {}
        for g in np.flatnonzero(searched).tolist():
            groups.setdefault((int(gallery_ids[g]), int(gallery_cams[g])), []).append(g)
        if not groups:
            numbers = ", ".join(str(camera + 1) for camera in CAMERAS[self.settings["search"]])
            raise DataError(
                f"protocol sysu_mm01: the gallery has no image of a person from the visible cameras {numbers}. The protocol is "
                "for the data set SYSUMM01; set another evaluate.protocol."
            )
        shots = SHOTS[self.settings["shots"]]
        for seed in range(self.count):
            draw = random.Random(seed)
            drawn: list[int] = []
            for _, images in sorted(groups.items()):
                drawn += [draw.choice(images)] if shots == 1 else draw.sample(images, min(shots, len(images)))
            yield Trial(np.arange(len(query_ids)), np.array(drawn, np.int64))

    def measure(
        self,
        distances: np.ndarray,
        ignored: np.ndarray,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """rank-k over different people: each counts once, at its nearest image that is not ignored."""
        order = np.argsort(np.where(ignored, np.inf, distances), axis=1, kind="stable")
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.arange(order.shape[1])[None], axis=1)
        places[ignored] = order.shape[1]
        by_person = np.argsort(gallery_ids, kind="stable")
        people, first = np.unique(gallery_ids[by_person], return_index=True)
        best = np.minimum.reduceat(places[:, by_person], first, axis=1)  # (B, people): place of the nearest image
        own = np.where(people == query_ids[:, None], best, order.shape[1]).min(axis=1)
        rank = 1 + (best < own[:, None]).sum(axis=1)
        counts = own < order.shape[1]
        return {name: np.where(counts, rank <= int(name.partition("-")[2]), np.nan) for name in self.metrics}
