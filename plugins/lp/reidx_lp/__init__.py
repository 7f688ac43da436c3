"""LP: the halves of an image as additional views, and a student that mimics its offline teacher (Lan et al., TIP 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Learning to Purification for Unsupervised Person Re-identification",
        api=1,
        paper="Lan, Teng, J. Zhang, X. Zhang, Tao: Learning to Purification for Unsupervised Person Re-identification, "
        "IEEE TIP 2023, doi 10.1109/TIP.2023.3278860",
        url="https://arxiv.org/abs/2204.09931",
        licence="Apache-2.0",
        deviations=(
            "Teacher and student are those of the last epoch; the released code keeps the best of repeated evaluations on "
            "the test set, and does not state which epoch became the teacher.",
            "Warm-up and training of the student are two stages; the second continues with the weights and the optimiser "
            "state of the first. Rates fall one epoch early, as in the released code, whose schedule counts the warm-up.",
            "The image of a cluster of one image is repeated to fill its places in a batch; the released sampler takes it "
            "once, which shifts every later cluster across the borders of the batch.",
            "BatchNorm takes its statistics from a configured group of images (64 by default, the number per device on "
            "four devices), also in the teacher.",
        ),
        results=(
            Reported(
                "Market-1501, ResNet-50, unsupervised", {"mAP": 85.8, "rank-1": 94.5}, "abstract of the paper"
            ),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("fusion", "MultiView", "reidx_lp.multi_view:MultiView", {"pool": "gem"}),
        Component("distance", "ViewFusedJaccard", "reidx_lp.view_distance:ViewFusedJaccard", {"lambda1": 0.15}),
        Component("loss", "FeatureDistil", "reidx_lp.distillation:FeatureDistil"),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_lp", "configs"
