"""Searchable galleries on disk: embeddings of images with their paths, identities, cameras and times."""

from reidx.index.filters import Filter
from reidx.index.index import Found, Index
from reidx.index.rows import Rows

__all__ = ["Filter", "Found", "Index", "Rows"]
