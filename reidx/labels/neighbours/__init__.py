"""Exact k nearest neighbours."""
