"""Evaluation of rankings: protocols, mAP / CMC / mINP, k-reciprocal re-ranking."""

from reidx.evaluation.protocols import Market1501, NoCameraFilter, Protocol, SingleGalleryShot
from reidx.evaluation.ranking import Details, Evaluation, evaluate
from reidx.evaluation.reranking import Reranking, rerank

__all__ = [
    "Details",
    "Evaluation",
    "Market1501",
    "NoCameraFilter",
    "Protocol",
    "Reranking",
    "SingleGalleryShot",
    "evaluate",
    "rerank",
]
