"""LP: halves of the image beside the whole, and a student that mimics its offline teacher (Lan et al., TIP 2023)."""

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
            "the test set, and which of the two its teacher was is not said.",
            "Warm-up and training of the student are two stages; weights and the optimiser's moments pass from one to the "
            "other, and rates fall one epoch early, as in the released code, whose schedule counts the warm-up.",
            "A cluster of one image fills its places in a batch by repetition; the released sampler takes it once, which "
            "shifts every later cluster across the borders of the batch.",
            "BatchNorm takes its statistics from a stated group of images (64 by default, what each of four devices saw), "
            "the teacher's too.",
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
