"""Memories, which score features: banks of centroids or instances, and trainable classifiers."""
from reidx.memories.base import Memory

__all__ = ["Memory"]
