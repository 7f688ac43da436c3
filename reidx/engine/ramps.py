"""Weights of the objective that change by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

from reidx.config.schema import Ramp

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "sigmoid": lambda t: math.exp(-5 * (1 - t) ** 2),
    "dann": lambda t: 2 / (1 + math.exp(-10 * t)) - 1,
}
"""Share of the way from the first value to the last, at t from 0 to 1; sources: :class:`reidx.config.schema.Ramp`."""


def weight_at(weight: float | Ramp, epoch: int) -> float:
    """Return a weight in an epoch, counted from 0."""
    if not isinstance(weight, Ramp):
        return weight
    t = (epoch - weight.from_epoch) / weight.epochs
    share = SHAPES[weight.shape](min(t, 1.0)) if t >= 0 else 0.0
    return weight.from_ + (weight.to - weight.from_) * share
