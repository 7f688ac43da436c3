"""Losses: small classes whose inputs are the arguments of ``forward``."""
