"""Losses: each module one concept, each loss a small class that names its inputs in ``forward``."""
