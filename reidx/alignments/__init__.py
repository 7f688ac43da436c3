"""Alignments: each a distance between the features of two domains that training makes small."""

from reidx.alignments.base import FeatureAlignment

__all__ = ["FeatureAlignment"]
