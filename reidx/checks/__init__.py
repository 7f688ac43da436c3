"""Checks of an experiment before training, in the order in which they run."""
