"""Cluster Contrast: one memory row per cluster, updated by the instances of each batch (Dai et al., ACCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_FIGURE = "results figure of the released code, last revision"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Cluster Contrast for Unsupervised Person Re-Identification",
        api=1,
        paper="Dai, Wang, Yuan, Zhu, Tan: Cluster Contrast for Unsupervised Person Re-Identification, ACCV 2022",
        url="https://arxiv.org/abs/2103.11568",
        licence="Apache-2.0",
        deviations=(
            "A cluster of one image fills its places in a batch by repetition; the released sampler takes it once, which "
            "shifts every later cluster across the batch boundaries.",
            "BatchNorm statistics are computed over groups of 64 images, the number that each of the released code's four "
            "devices saw.",
            "The last epoch is reported; the released code keeps the best of repeated evaluations on the test set.",
        ),
        results=(
            Reported(
                "Market-1501, ResNet-50, unsupervised, DBSCAN",
                {"mAP": 82.1, "rank-1": 92.3, "rank-5": 96.7, "rank-10": 97.9},
                _FIGURE,
            ),
            Reported(
                "Market-1501, ResNet-50, unsupervised, InfoMap",
                {"mAP": 83.0, "rank-1": 92.9, "rank-5": 97.2, "rank-10": 98.0},
                _FIGURE,
            ),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("memory", "ClusterMemory", "reidx_cluster_contrast.memory:ClusterMemory", {"momentum": 0.1}),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_cluster_contrast", "configs"
