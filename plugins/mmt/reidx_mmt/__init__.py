"""MMT: two networks taught by each other's average (Ge, Chen, Li, ICLR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_TABLE = "results table of the released code"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Mutual Mean-Teaching: Pseudo Label Refinery for Unsupervised Domain Adaptation on Person Re-identification",
        api=1,
        paper=(
            "Ge, Chen, Li: Mutual Mean-Teaching: Pseudo Label Refinery for Unsupervised Domain Adaptation on Person "
            "Re-identification, ICLR 2020"
        ),
        url="https://openreview.net/forum?id=rJlnOhVYPS",
        licence="Apache-2.0",
        deviations=(
            "The average of the first network after the last epoch is reported; the released code keeps the better of both "
            "averages over all epochs, chosen on the test set.",
            "Stage 2 starts from the last weights of stage 1; the released code takes the best, chosen on the source's test "
            "set.",
            "The stem of the ResNet keeps the ReLU after its first BatchNorm, which the released code leaves out.",
            "k-means is faiss's: the best of three random starts of at most 50 iterations each. The released code uses "
            "scikit-learn's, with ten k-means++ starts of at most 300 iterations.",
            "An image without an image of another label in its batch adds nothing to the triplet terms; the released code "
            "compares it with an image of the same label, at an artificially large distance.",
            "BatchNorm statistics are computed over groups of 16 images, the number that each of the released code's four "
            "devices saw. Every group updates the running statistics; in the released code only the first device does.",
        ),
        results=(
            Reported(
                "DukeMTMC-reID to Market-1501, ResNet-50, 500 clusters",
                {"mAP": 71.2, "rank-1": 87.7, "rank-5": 94.9, "rank-10": 96.9},
                _TABLE,
            ),
            Reported(
                "Market-1501 to DukeMTMC-reID, ResNet-50, 700 clusters",
                {"mAP": 65.1, "rank-1": 78.0, "rank-5": 88.8, "rank-10": 92.5},
                _TABLE,
            ),
            Reported(
                "Market-1501 to MSMT17, ResNet-50, 1500 clusters",
                {"mAP": 22.9, "rank-1": 49.2, "rank-5": 63.1, "rank-10": 68.8},
                _TABLE,
            ),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("distance", "RerankingJaccard", "reidx_mmt.distance:RerankingJaccard"),
        Component("loss", "SoftCrossEntropy", "reidx_mmt.losses:SoftCrossEntropy"),
        Component("loss", "SoftTriplet", "reidx_mmt.losses:SoftTriplet"),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_mmt", "configs"
