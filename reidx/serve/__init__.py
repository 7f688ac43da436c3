"""A page on an index: pick or upload a query, look at the ranked images."""

from reidx.serve.gallery import Gallery
from reidx.serve.server import PageServer

__all__ = ["Gallery", "PageServer"]
