"""Fusion heads: what makes named features of a network's map."""
