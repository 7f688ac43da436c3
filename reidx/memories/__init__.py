"""Memories: what features are compared with. A bank of centroids, of instances, or a trainable classifier."""
from reidx.memories.base import Memory

__all__ = ["Memory"]
