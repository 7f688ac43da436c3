"""Open-set identification: queries whose person may not be in the gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from reidx.contracts import Summary, Trial
from reidx.errors import DataError
from reidx.evaluation.protocols import JUNK, Protocol
from reidx.evaluation.verification import strict_threshold

RATES = (0.001, 0.01, 0.1)
"""False-accept rates of the metrics."""


class OpenSet(Protocol):
    """Open-set identification: some people are not in the gallery.

    A query is accepted if its nearest gallery image that counts is nearer than a threshold. Unmated queries are those of people
    without a gallery image, and mated queries those with a match. The threshold at a false-accept rate (FAR) is the largest at
    which at most this share of the unmated queries is accepted. ``DIR@FAR``, for FAR 0.001, 0.01 and 0.1, is the detection and
    identification rate: the share of the mated queries that are accepted with an image of their person as the nearest (Grother
    and Phillips, CVPR 2004; for re-ID Liao et al., arXiv 1408.0872). A query that is neither, because all images of its person
    are ignored, counts in no rate.

    Each trial removes a random share ``held_out`` of the people with queries from the gallery. With ``held_out: 0`` there is
    one trial, and the unmated queries are those of the data set. mAP, mINP and rank-k are those of the mated queries. The card
    has the numbers of queries and the thresholds, as means over the trials, on the scale of the ranking: squared Euclidean
    distances (twice the cosine distance for the metric cosine), or those of a re-ranking. With fewer than 1/FAR unmated
    queries, the threshold accepts none of them.
    """

    metrics = tuple(f"DIR@{rate:g}" for rate in RATES)
    arrays = ("nearest", "correct", "mated")
    denominators: ClassVar[Mapping[str, str]] = dict.fromkeys(metrics, "mated queries")
    open_set = True

    def __init__(self, held_out: float = 0.5, trials: int = 10, seed: int = 0, camera_filter: bool = True) -> None:
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out is {held_out}; give the share of people to remove, at least 0 and less than 1")
        if trials < 1:
            raise ValueError(f"trials is {trials}; at least 1 is needed")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        drawn = {"seed": seed} if held_out else {}
        super().__init__("open_set", "1", camera_filter, settings={"held_out": held_out, **drawn})
        self.count = trials

    @classmethod
    def contract(cls, camera_filter: bool = True, **_: Any) -> dict[str, str]:
        """Cameras are required by the filter alone."""
        return {"cameras": "required"} if camera_filter else {}

    def draw_trials(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> Iterator[Trial] | None:
        """All queries, and the gallery without the people that the trial removes; None for the data set's own gallery."""
        share = self.settings["held_out"]
        if not share:
            if np.isin(query_ids, gallery_ids).all():
                raise DataError(
                    "protocol open_set: the person of every query is in the gallery, so that nobody can be accepted falsely. "
                    "Set evaluate.protocol.held_out to a share of the people to remove from the gallery, such as 0.5."
                )
            return None
        people = np.intersect1d(query_ids, gallery_ids[gallery_ids != JUNK])
        if len(people) < 2:
            raise DataError(
                f"protocol open_set: {len(people)} people have both queries and gallery images; at least 2 are needed, one to "
                "remove and one to find."
            )
        return self._without_some(people, min(max(round(share * len(people)), 1), len(people) - 1), query_ids, gallery_ids)

    def _without_some(
        self, people: np.ndarray, number: int, query_ids: np.ndarray, gallery_ids: np.ndarray
    ) -> Iterator[Trial]:
        random = np.random.default_rng(self.settings["seed"])
        for _ in range(self.count):
            removed = random.choice(people, number, replace=False)
            yield Trial(np.arange(len(query_ids)), np.flatnonzero(~np.isin(gallery_ids, removed)))

    def measure(
        self,
        distances: np.ndarray,
        ignored: np.ndarray,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Distance of the nearest image that counts, 1 if it is correct, and 1 if mated, 0 if unmated, NaN if neither."""
        counting = np.where(ignored, np.inf, distances)
        place = counting.argmin(axis=1)
        nearest = counting[np.arange(len(place)), place]
        matched = ((gallery_ids == query_ids[:, None]) & ~ignored).any(axis=1)
        mated = np.where(np.isin(query_ids, gallery_ids), np.where(matched, 1.0, np.nan), 0.0)
        correct = (gallery_ids[place] == query_ids) & np.isfinite(nearest)
        return {"nearest": nearest, "correct": correct.astype(np.float64), "mated": mated}

    def summarise(self, values: Mapping[str, np.ndarray]) -> Summary:
        """DIR at each FAR, the thresholds, and the numbers of mated and unmated queries."""
        nearest, mated, unmated = values["nearest"], values["mated"] == 1, values["mated"] == 0
        found = unmated & np.isfinite(nearest)  # without a gallery image that counts, a query cannot be accepted
        if not found.any():
            raise DataError("protocol open_set: no unmated query has a gallery image that counts, so that no FAR is known.")
        impostors = np.where(found, nearest, np.inf)[unmated]
        facts = {"mated_queries": float(mated.sum()), "unmated_queries": float(unmated.sum())}
        metrics = {}
        for name, rate in zip(self.metrics, RATES):
            threshold = min(strict_threshold(impostors, rate), float(np.nextafter(nearest[found].max(), np.inf)))
            accepted = (nearest < threshold) & (values["correct"] == 1)
            metrics[name] = float(accepted[mated].mean())
            facts[f"threshold@{rate:g}"] = threshold
        return Summary(metrics, facts)
