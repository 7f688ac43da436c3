"""CORAL: alignment of the second-order statistics of two domains' features."""

from __future__ import annotations

from torch import Tensor

from reidx.alignments.base import FeatureAlignment
from reidx.errors import ConfigError


class CORAL(FeatureAlignment):
    """The distance of the two domains' covariances; nothing to train.

    ‖C_s − C_t‖²_F / (4 D²), the distance of the domains' covariances (Sun and Saenko, ECCV 2016 workshops).

    C = Σ_i (f_i − mean)(f_i − mean)ᵀ / (B − 1) of each batch (B,D). The means themselves are not compared. The value is small
    for wide features: choose the weight by comparing it with the other terms. Raises :class:`ConfigError` for a batch of one.
    """

    def gap(self, source: Tensor, target: Tensor) -> Tensor:
        difference = covariance(source) - covariance(target)
        return difference.square().sum() / (4.0 * source.shape[1] ** 2)


def covariance(rows: Tensor) -> Tensor:
    """The covariance (D,D) of rows (B,D), with divisor B − 1."""
    if len(rows) < 2:
        raise ConfigError("CORAL: one image has no covariance; draw at least 2 of each domain.")
    rows = rows - rows.mean(0)
    return rows.T @ rows / (len(rows) - 1)
