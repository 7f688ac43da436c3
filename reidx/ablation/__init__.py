"""Ablations: planning, execution (on one machine or many) and comparison of the runs of a grid."""
