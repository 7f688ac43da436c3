"""Ablations: the runs of a grid planned, carried out on one machine or many, and compared."""
