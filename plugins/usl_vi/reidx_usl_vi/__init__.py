"""Unsupervised visible-infrared re-ID: a memory for each modality, and matched clusters (ADCA, MM 2022; PGM, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_LOG = "training log of the released code; best epoch, chosen on the test set"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Progressive Graph Matching and Alternate Learning for Unsupervised Visible-Infrared Re-ID",
        api=1,
        paper=(
            "Wu, Ye: Unsupervised Visible-Infrared Person Re-Identification via Progressive Graph Matching and Alternate "
            "Learning, CVPR 2023"
        ),
        url="https://github.com/zesenwu23/USL-VI-ReID",
        licence="Apache-2.0",
        deviations=(
            "All terms of a step read the rows from before the step; in the released code one term's backward pass updates the "
            "rows that the next one reads.",
            "The matching ends when every cluster has a partner; the released code makes two rounds, and none with fewer "
            "visible than infrared clusters.",
            "A gain for each channel replaces the jitter of brightness, contrast, saturation and hue.",
            "The second stage starts from the last epoch of the first, and the last epoch is reported; the released code takes "
            "the best ones on the test set.",
            "ADCA's aggregation of the memories of both modalities is left out.",
        ),
        results=(
            Reported("SYSU-MM01, all search, AGW", {"mAP": 51.36, "rank-1": 56.29, "mINP": 35.06}, _LOG),
            Reported("SYSU-MM01, indoor search, AGW", {"mAP": 64.92, "rank-1": 57.99, "mINP": 60.77}, _LOG),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("transform", "ChannelAugment", "reidx_usl_vi.transforms:ChannelAugment", {"exchange": 0.75, "grey": 0.125}),
        Component("matcher", "ProgressiveGraphMatching", "reidx_usl_vi.matching:ProgressiveGraphMatching", {"alternate": True}),
        Component("loss", "CrossModalityContrast", "reidx_usl_vi.losses:CrossModalityContrast", {"temperature": 0.05}),
        Component("backbone", "TwoStem", "reidx_usl_vi.backbone:TwoStem", {"of": {"type": "Timm", "name": "test_resnet"}}),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_usl_vi", "configs"
