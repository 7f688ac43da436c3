"""Distillation of features: draws a student's vectors to its teacher's."""

from __future__ import annotations

from torch import Tensor, nn


class FeatureDistil(nn.Module):
    """The squared distance of a student's features to a teacher's.

    K = (1/B) Σ_b ‖f_b − t_b‖² for features f and t (B,D): summed over D, averaged over the batch. For unit vectors it is the
    mean of 2 − 2 cos(f_b, t_b). An average over D would be D times smaller and have no effect at the same weight. Source: the
    authors' code.
    """

    def forward(self, features: Tensor, teacher: Tensor) -> Tensor:
        return (features.float() - teacher.float()).square().sum(1).mean()
