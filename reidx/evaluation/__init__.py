"""How good a ranking is: protocols, mAP / CMC / mINP, k-reciprocal re-ranking."""

from reidx.evaluation.protocols import PROTOCOLS, Protocol
from reidx.evaluation.ranking import Details, Evaluation, evaluate
from reidx.evaluation.reranking import Reranking, rerank

__all__ = ["PROTOCOLS", "Details", "Evaluation", "Protocol", "Reranking", "evaluate", "rerank"]
