"""Graphs of distances between features."""
