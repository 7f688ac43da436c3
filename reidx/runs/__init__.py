"""Files that a run leaves on disk."""
