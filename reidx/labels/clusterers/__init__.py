"""Pseudo labels from a graph or from features."""
