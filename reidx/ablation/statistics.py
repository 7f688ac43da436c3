"""Statistics over seeds: mean and deviation of a metric, and its paired difference from the base with an interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean over ``count`` seeds and their sample standard deviation (n − 1), None for a single seed."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """Mean difference over the ``count`` common seeds.

    ``low`` and ``high`` are the 95 % confidence interval for normal differences: mean ± t(0.975, n − 1) · s / √n, where s
    is the standard deviation of the n differences; None for a single seed.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


def spread(values: Mapping[int, float]) -> Spread | None:
    """Mean and deviation of a metric given by seed; None without values."""
    if not values:
        return None
    found = list(values.values())
    return Spread(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def paired(values: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """Difference of a metric from the base's, paired by seed; None without common seeds."""
    differences = {seed: values[seed] - base[seed] for seed in values if seed in base}
    whole = spread(differences)
    if whole is None:
        return None
    if whole.deviation is None:
        return Difference(whole.mean, None, None, whole.count)
    reach = float(student.ppf((1 + CONFIDENCE) / 2, whole.count - 1)) * whole.deviation / math.sqrt(whole.count)
    return Difference(whole.mean, whole.mean - reach, whole.mean + reach, whole.count)
