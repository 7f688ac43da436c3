"""What several seeds say: mean and spread of a metric, and its difference to the base, paired by seed, with an interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A mean over ``count`` seeds with their standard deviation (of a sample, n − 1); None of a single one."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """A mean difference over the ``count`` seeds that both have.

    ``low`` and ``high`` bound it with 95 % confidence, if differences are normal: mean ± t(0.975, n − 1) · s / √n with s
    the standard deviation of the n differences. None of fewer than two.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


def spread(values: Mapping[int, float]) -> Spread | None:
    """The spread of a metric by seed; None without any."""
    if not values:
        return None
    found = list(values.values())
    return Spread(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def paired(values: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """The difference of a metric to the base's, seed by seed; None if they have no seed in common."""
    differences = {seed: values[seed] - base[seed] for seed in values if seed in base}
    whole = spread(differences)
    if whole is None:
        return None
    if whole.deviation is None:
        return Difference(whole.mean, None, None, whole.count)
    reach = float(student.ppf((1 + CONFIDENCE) / 2, whole.count - 1)) * whole.deviation / math.sqrt(whole.count)
    return Difference(whole.mean, whole.mean - reach, whole.mean + reach, whole.count)
