"""LF2: a teacher's global feature fused with a student's halves, each clustered separately (Ding, Zhou, ICPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_TABLE = "Table I of the paper"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Learning Feature Fusion for Unsupervised Domain Adaptive Person Re-identification",
        api=1,
        paper="Ding, Zhou: Learning Feature Fusion for Unsupervised Domain Adaptive Person Re-identification, ICPR 2022",
        url="https://arxiv.org/abs/2205.09495",
        licence="Apache-2.0",
        deviations=(
            "Both stages report their last epoch; the released code reports the epoch that is best on the target's test set, "
            "and starts the adaptation from the epoch that is best on the source's.",
            "The classifier's rows are the normalised means of the features of each cluster's images; the released code "
            "takes the final centres of mini-batch k-means.",
            "Every BatchNorm takes its batch statistics from groups of 32 images, and all groups update its running "
            "statistics; on the two devices of the released code only the first group does, and the norms of the fused "
            "features see all 64 images.",
            "Each k-means restarts from the run's seed in every epoch and chooses its initial centres among 900 images or "
            "three per cluster; the released code continues its random stream, and uses 1500 images for the global feature.",
        ),
        results=(
            Reported(
                "DukeMTMC-reID to Market-1501, ResNet-50, 700 clusters",
                {"mAP": 83.2, "rank-1": 92.8, "rank-5": 97.8, "rank-10": 98.4},
                _TABLE,
            ),
            Reported(
                "Market-1501 to DukeMTMC-reID, ResNet-50, 900 clusters",
                {"mAP": 73.5, "rank-1": 83.7, "rank-5": 91.9, "rank-10": 94.3},
                _TABLE,
            ),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (Component("fusion", "FusionModule", "reidx_lf2.fusion_module:FusionModule"),)


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_lf2", "configs"
