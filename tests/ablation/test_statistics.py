"""Means, spreads and paired intervals against plain sums and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reidx.ablation.statistics import paired, spread


def test_by_hand() -> None:
    # differences 1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.302653
    found = paired({1: 11.0, 2: 22.0, 3: 33.0, 9: 0.0}, {1: 10.0, 2: 20.0, 3: 30.0, 8: 5.0})
    assert found is not None
    assert found.count == 3
    assert found.mean == pytest.approx(2)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    whole = spread({1: 1.0, 2: 2.0, 3: 6.0})
    assert whole is not None and (whole.mean, whole.count) == (3.0, 3)
    assert whole.deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_one_seed_and_no_seed() -> None:
    one = spread({7: 3.0})
    assert one is not None
    assert (one.mean, one.deviation, one.count) == (3.0, None, 1)
    assert spread({}) is None
    difference = paired({7: 3.0}, {7: 1.0, 8: 1.0})
    assert difference is not None and (difference.mean, difference.low, difference.high) == (2.0, None, None)
    assert paired({1: 3.0}, {2: 3.0}) is None


@pytest.mark.parametrize("count", [2, 3, 10])
def test_against_plain_sums_and_scipy(count: int) -> None:
    generator = np.random.default_rng(count)
    base, other = generator.normal(50, 3, count), generator.normal(52, 3, count)
    found = paired(dict(enumerate(other)), dict(enumerate(base)))
    assert found is not None
    differences = [float(b - a) for a, b in zip(base, other)]
    mean = sum(differences) / count
    s = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1))
    interval = stats.ttest_rel(other, base).confidence_interval(0.95)
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.high or 0) - mean == pytest.approx(stats.t.ppf(0.975, count - 1) * s / math.sqrt(count))
