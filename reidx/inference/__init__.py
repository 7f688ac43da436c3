"""Use of a trained network outside training: embeddings of images, and search by them."""

from reidx.inference.embeddings import Embeddings
from reidx.inference.matches import Matches
from reidx.inference.reid import ReID

__all__ = ["Embeddings", "Matches", "ReID"]
