"""Verification: pairs of images that show one person or two, told apart by a threshold of their distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from reidx.contracts import Summary
from reidx.errors import ConfigError, DataError
from reidx.evaluation.protocols import Protocol

RATES = (0.0001, 0.001, 0.01)
"""False-positive rates of the metrics."""

_DROPPED = 10
"""Bits of a float32 that the counts drop: 14 significant bits are left."""
_BINS = 1 << (31 - _DROPPED)


class Threshold(NamedTuple):
    """A threshold: a pair shows one person if its distance is smaller. The rates are those of the pairs it comes from."""

    distance: float
    fpr: float
    """Share of the pairs of different people that it accepts."""
    tpr: float
    """Share of the pairs of one person that it accepts."""


def calibrate_threshold(distances: Any, same: Any, fpr: float) -> Threshold:
    """Compute the largest distance threshold that accepts at most a share ``fpr`` of the pairs of different people.

    ``distances`` (N,) are those of labelled pairs of images, and ``same`` (N,) is true where both show one person. A pair is
    accepted if its distance is smaller than the threshold. Calibrate on other people than those of the test.

        calibrate_threshold([0.2, 0.5, 0.4, 0.9], [True, True, False, False], fpr=0.5)  # Threshold(0.9, 0.5, 1.0)

    Raises DataError for arrays that do not fit, are not finite or lack one kind of pairs; ConfigError for another ``fpr``.
    """
    values, labels = np.asarray(distances, np.float64), np.asarray(same)
    if values.ndim != 1 or labels.shape != values.shape or labels.dtype != np.bool_:
        raise DataError(
            f"calibrate_threshold: distances and same are one number and one truth value per pair; got {values.shape} and "
            f"{labels.dtype} {labels.shape}."
        )
    if not np.isfinite(values).all():
        raise DataError("calibrate_threshold: some distances are NaN or infinite.")
    if not labels.any() or labels.all():
        raise DataError("calibrate_threshold: give pairs of one person and pairs of different people.")
    if not 0 <= fpr < 1:
        raise ConfigError(f"calibrate_threshold: fpr is {fpr}; it must be at least 0 and less than 1.")
    distance = strict_threshold(values[~labels], fpr)
    accepted = values < distance
    return Threshold(distance, float(accepted[~labels].mean()), float(accepted[labels].mean()))


def strict_threshold(impostors: np.ndarray, rate: float) -> float:
    """Return the largest of the distances (N,) such that at most ``rate`` · N are smaller, for a rate below 1."""
    place = allowed(rate, len(impostors))
    return float(np.partition(impostors, place)[place])


def allowed(rate: float, pairs: int) -> int:
    """Return the number of pairs that a rate allows to accept."""
    return math.floor(rate * pairs * (1 + 1e-12))  # 0.29 · 100 is 28.999…


class Verification(Protocol):
    """Verification: pairs of a query and a gallery image, accepted or not.

    A pair counts unless the query ignores the image, as in ``Market1501``. It is accepted if its distance is smaller than a
    threshold. ``TPR@FPR``, for a false-positive rate (FPR) of 0.0001, 0.001 and 0.01, is the share of accepted pairs of one
    person, at the largest threshold that accepts at most this share of the pairs of two people. ``AUC`` is the area under the
    curve of TPR over FPR (ROC): the probability that a pair of one person has a smaller distance than a pair of two.

    The card has the thresholds and the numbers of pairs; distances are on the scale of the ranking: squared Euclidean
    distances (twice the cosine distance for the metric cosine), or those of a re-ranking. They are float32, negative ones 0,
    and a threshold has 14 significant bits, so that memory does not grow with the pairs. Pairs with equal bits are half in
    the AUC.
    """

    metrics = (*(f"TPR@{rate:g}" for rate in RATES), "AUC")
    totals = ("same", "different")
    denominators: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(metrics[:-1], "pairs of one person that count"),
        "AUC": "all combinations of a pair of one person and a pair of two",
    }

    def __init__(self, camera_filter: bool = True) -> None:
        super().__init__("verification", "1", camera_filter)

    @classmethod
    def contract(cls, camera_filter: bool = True, **_: Any) -> dict[str, str]:
        """Cameras are required by the filter alone."""
        return {"cameras": "required"} if camera_filter else {}

    def measure(
        self,
        distances: np.ndarray,
        ignored: np.ndarray,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Numbers of pairs of one person and of two, by the leading bits of their distances."""
        places = np.maximum(distances, 0).astype(np.float32).view(np.int32) >> _DROPPED
        same = (gallery_ids == query_ids[:, None]) & ~ignored
        chosen = {"same": places[same], "different": places[~same & ~ignored]}
        return {name: np.bincount(found, minlength=_BINS) for name, found in chosen.items()}

    def summarise(self, values: Mapping[str, np.ndarray]) -> Summary:
        """TPR at each FPR and the AUC, the thresholds, and the numbers of pairs."""
        same, different = values["same"], values["different"]
        pairs = int(same.sum()), int(different.sum())
        if not all(pairs):
            raise DataError(
                f"protocol verification: {pairs[0]:,} pairs of one person and {pairs[1]:,} of two count; both are needed."
            )
        below = np.cumsum(same) - same
        accepted = np.cumsum(different)
        metrics, facts = {}, {"pairs_of_one_person": float(pairs[0]), "pairs_of_two": float(pairs[1])}
        for name, rate in zip(self.metrics, RATES):
            place = int(np.searchsorted(accepted, allowed(rate, pairs[1]), side="right"))
            metrics[name] = float(below[place] / pairs[0])
            facts[f"threshold@{rate:g}"] = float(np.int32(place << _DROPPED).view(np.float32))
        farther = pairs[1] - accepted + different / 2
        metrics["AUC"] = float((same / pairs[0]) @ (farther / pairs[1]))
        return Summary(metrics, facts)
