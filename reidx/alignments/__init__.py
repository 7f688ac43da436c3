"""Alignments: distances between the features of two domains, minimised in training."""

from reidx.alignments.base import FeatureAlignment

__all__ = ["FeatureAlignment"]
