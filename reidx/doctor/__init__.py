"""Examination of a data set on disk: recognition, faults of files, labels and counts, repair, pictures."""
