"""CA-Jaccard: Jaccard distances from separate neighbour lists within and across cameras (Chen et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_NAMES = "names of the released checkpoints in the released code's README"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="CA-Jaccard: Camera-aware Jaccard Distance for Person Re-identification",
        api=1,
        paper="Chen, Fan, Chen, Zhu: CA-Jaccard: Camera-aware Jaccard Distance for Person Re-identification, CVPR 2024",
        url="https://arxiv.org/abs/2311.10605",
        licence="Apache-2.0",
        deviations=(
            "A neighbour list ends early if the camera, or all other cameras, have fewer images; the released code continues "
            "it with images of the wrong cameras.",
            "The last epoch is reported; the released code keeps the best of repeated evaluations on the test set.",
        ),
        results=(
            Reported("Market-1501, ResNet-50, Cluster Contrast", {"mAP": 84.8}, _NAMES),
            Reported("MSMT17, ResNet-50, Cluster Contrast", {"mAP": 42.8}, _NAMES),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("distance", "CAJaccard", "reidx_ca_jaccard.distance:CAJaccard", {"k1_intra": 5, "k1_inter": 20}),
        Component("reranker", "CameraAwareKReciprocal", "reidx_ca_jaccard.reranking:CameraAwareKReciprocal"),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_ca_jaccard", "configs"
