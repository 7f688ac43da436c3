"""Fusion heads, which turn a network's map into named features."""
