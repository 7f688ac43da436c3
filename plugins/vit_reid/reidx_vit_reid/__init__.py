"""TransReID-SSL (Luo et al. 2021) and PASS (Zhu et al., ECCV 2022): vision transformers pre-trained on people."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_SSL = "README of TransReID-SSL's released code, column Paper"
_PASS = "README of PASS's released code"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="TransReID-SSL and PASS: vision transformers pre-trained on people",
        api=1,
        paper="Luo, Wang, Xu, Ding, Zhou, Wang, Li, Jin: Self-Supervised Pre-Training for Transformer-Based Person "
        "Re-Identification, 2021; Zhu, Guo, Yan, Zhu, Wang, Tang: PASS: Part-Aware Self-Supervised Pre-Training for Person "
        "Re-Identification, ECCV 2022",
        url="https://arxiv.org/abs/2111.12084",
        licence="Apache-2.0",
        deviations=(
            "The pre-training itself is not included: the recipes start from files of the authors.",
            "Positions of another image size are resized bicubically; the released code resizes them bilinearly.",
            "The source stage of the UDA recipes trains biases at the rate of the weights (released: at twice that rate) and "
            "erases with a constant (released: noise).",
            "The last epoch is reported; the released code keeps the best of repeated evaluations on the test set.",
        ),
        results=(
            Reported("Market-1501, ViT-S/16, TransReID-SSL", {"mAP": 88.2, "rank-1": 94.2}, _SSL),
            Reported("Market-1501, ViT-S/16 + ICS, TransReID-SSL", {"mAP": 89.6, "rank-1": 95.3}, _SSL),
            Reported("MSMT17, ViT-S/16, TransReID-SSL", {"mAP": 40.9, "rank-1": 66.4}, _SSL),
            Reported("MSMT17, ViT-S/16 + ICS, TransReID-SSL", {"mAP": 50.6, "rank-1": 75.0}, _SSL),
            Reported("Market-1501, ViT-S/16, PASS", {"mAP": 88.7, "rank-1": 95.0}, _PASS),
            Reported("MSMT17, ViT-S/16, PASS", {"mAP": 41.0, "rank-1": 67.0}, _PASS),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("backbone", "ViT", "reidx_vit_reid.vit:ViT", {"width": 64, "depth": 2, "part_tokens": 3, "cameras": 8}),
        Component("fusion", "ClassAndParts", "reidx_vit_reid.class_and_parts:ClassAndParts", {"combine": "cat"}),
        Component("weights", "PartsOrStem", "reidx_vit_reid.layout:PartsOrStem"),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_vit_reid", "configs"
