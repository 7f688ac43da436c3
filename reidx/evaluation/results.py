"""The result of an evaluation: metrics, the card of their conditions, details of each query, means over trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from reidx.evaluation.groups import group_card
from reidx.evaluation.protocols import Protocol

WITH_MATCH = "queries with at least one match"


@dataclass(frozen=True)
class Details:
    """Results of each query image, in their order; those of a group are at its first image. All other images have NaN, 0, −1.

    Of a gallery group ``top`` has the first image, or the nearest one if that counts.
    """

    ap: np.ndarray  # (Q,) average precision, NaN where the query has no match
    first_match: np.ndarray  # (Q,) rank of the first match, 1 is best, 0 where there is none
    top: np.ndarray  # (Q, k) gallery indices, nearest first, without the ignored; -1 where there are fewer


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one ranking, or their means over the trials of a protocol, and the card of their conditions.

    Metrics are fractions between 0 and 1.
    """

    metrics: dict[str, float]
    """mAP, mINP and rank-1, -5 and -10, then those of the protocol, which replace metrics of their names."""
    cmc: np.ndarray = field(repr=False)  # (50,), rank-1 at index 0; never the protocol's
    card: dict[str, Any] = field(repr=False)
    details: Details | None = field(default=None, repr=False)
    """Results of each query; in the first trial, if there are several."""
    trials: tuple[Evaluation, ...] = field(default=(), repr=False)
    """Results of each trial, with positions in the whole gallery; empty for a protocol without trials."""

    @property
    def mAP(self) -> float:
        """Mean average precision."""
        return self.metrics["mAP"]

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty."""
        return self.metrics["mINP"]

    @property
    def valid_queries(self) -> float:
        """Number of queries that count, those with a match; the mean over the trials."""
        return self.card["valid_queries"]

    @property
    def deviations(self) -> dict[str, float]:
        """Sample standard deviation (n − 1) of each metric over the trials; empty for fewer than two."""
        if len(self.trials) < 2:
            return {}
        return {name: stdev(trial.metrics[name] for trial in self.trials) for name in self.metrics}


def protocol_card(rule: Protocol, measured: Mapping[str, np.ndarray], valid: np.ndarray) -> dict[str, Any]:
    """Return the part of a card that describes a protocol: version, settings, filter, metrics and their denominators.

    `measured` are the protocol's arrays of each query (Q,), NaN where one does not count; `valid` (Q,) are the queries with
    a match.
    """
    names, stated = list(getattr(rule, "metrics", ())), getattr(rule, "denominators", {})
    counted = {name: ~np.isnan(values) for name, values in measured.items()}
    found = {
        name: WITH_MATCH if np.array_equal(counts, valid) else f"{counts.sum():,} of {len(counts):,} queries"
        for name, counts in counted.items()
        if name in names
    }
    return {
        "protocol": rule.name,
        "protocol_version": rule.version,
        "protocol_settings": dict(getattr(rule, "settings", {})),
        "protocol_metrics": names,
        "protocol_denominators": {**found, **stated},
        "groups": group_card(rule),
        "camera_filter": rule.camera_filter,
        "junk": rule.junk,
        "trials": 1,
        "ap": "mean of the precision at each match, not interpolated",
        "denominator": WITH_MATCH,
        "ties": "by gallery index",
    }


_COUNTS = ("queries", "valid_queries", "queries_without_match", "queries_in_gallery", "gallery", "gallery_junk")


def mean_over(trials: list[Evaluation]) -> Evaluation:
    """Means of the metrics, and of the counts and facts on the card, over trials, with the details of the first one."""
    counts = {name: fmean(trial.card[name] for trial in trials) for name in _COUNTS}
    facts = {name: fmean(trial.card["protocol_facts"][name] for trial in trials) for name in trials[0].card["protocol_facts"]}
    return Evaluation(
        metrics={name: fmean(trial.metrics[name] for trial in trials) for name in trials[0].metrics},
        cmc=np.mean([trial.cmc for trial in trials], axis=0),
        card={
            **trials[0].card,
            **{name: int(value) if value.is_integer() else value for name, value in counts.items()},
            "protocol_facts": facts,
            "trials": len(trials),
        },
        details=trials[0].details,
        trials=tuple(trials),
    )
