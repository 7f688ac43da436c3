"""LF2: a teacher's whole view of a person fused with a student's halves, each clustered by itself (Ding, Zhou, ICPR 2022)."""

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
            "The last epoch is reported, of both stages; the released code keeps the epoch that is best on the target's test "
            "set, and begins to adapt from the one that is best on the source's.",
            "The classifier's rows are the normalised means of the features of each cluster's images; the released code "
            "takes the centres that mini-batch k-means ends at.",
            "Every BatchNorm takes its statistics from groups of 32 images and its running ones from all groups; on the two "
            "devices of the released code only the first group counts, and those of the fused features see all 64 images.",
            "Each k-means begins from the run's seed in every epoch, its starts chosen from 900 images or three a cluster; the "
            "released code draws on, and has 1500 images for the global feature.",
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
