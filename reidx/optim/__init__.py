"""Optimisers, parameter groups and schedules."""

from reidx.optim.schedule import Schedule

__all__ = ["Schedule"]
