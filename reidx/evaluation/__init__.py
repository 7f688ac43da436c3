"""Evaluation of rankings: protocols, mAP / CMC / mINP, k-reciprocal re-ranking."""

from reidx.evaluation.clothes import ClothChanging, SameClothes
from reidx.evaluation.groups import Grouped
from reidx.evaluation.k_reciprocal import KReciprocal
from reidx.evaluation.open_set import OpenSet
from reidx.evaluation.protocols import Market1501, NoCameraFilter, Protocol, SingleGalleryShot
from reidx.evaluation.query_expansion import AlphaQueryExpansion, AverageQueryExpansion
from reidx.evaluation.ranking import evaluate
from reidx.evaluation.reranking import rerank
from reidx.evaluation.results import Details, Evaluation
from reidx.evaluation.sysu_mm01 import SYSUMM01
from reidx.evaluation.trapezoid import Market1501Trapezoid
from reidx.evaluation.verification import Threshold, Verification, calibrate_threshold

__all__ = [
    "SYSUMM01",
    "AlphaQueryExpansion",
    "AverageQueryExpansion",
    "ClothChanging",
    "Details",
    "Evaluation",
    "Grouped",
    "KReciprocal",
    "Market1501",
    "Market1501Trapezoid",
    "NoCameraFilter",
    "OpenSet",
    "Protocol",
    "SameClothes",
    "SingleGalleryShot",
    "Threshold",
    "Verification",
    "calibrate_threshold",
    "evaluate",
    "rerank",
]
