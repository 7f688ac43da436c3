"""Files of a run on disk."""
