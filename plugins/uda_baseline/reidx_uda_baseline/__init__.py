"""Strong baselines of domain-adaptive re-ID: a source, a clustered target, a BatchNorm for each, and no more."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_README = "README of UDAStrongBaseline"
_ZOO = "model zoo of OpenUnReID"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Strong baselines for domain-adaptive person re-identification",
        api=1,
        paper=(
            "UDAStrongBaseline, the baseline beneath Zheng et al.: Exploiting Sample Uncertainty for Domain Adaptive Person "
            "Re-Identification, AAAI 2021; and the strong baseline of OpenUnReID"
        ),
        url="https://github.com/zkcys001/UDAStrongBaseline",
        licence="Apache-2.0",
        deviations=(
            "The last epoch is reported; the released codes keep the best of repeated evaluations on the test set.",
            "BatchNorm takes its statistics from a stated group of images (16 of a domain: what each of four devices saw), "
            "and every group moves the running ones.",
            "UDAStrongBaseline: the rows of the source's classes, which only ever push target images away, are drawn once; "
            "the released code draws them anew with those of the clusters, and has one more row that no label means.",
            "UDAStrongBaseline: the source's BatchNorms have no gradient in the second stage and stay as they are; in the "
            "released code it is exactly 0, so that weight decay moves their weights. Target features do not depend on them.",
            "UDAStrongBaseline: the bias of the BatchNorm neck stays 0; where the released code gives each domain a "
            "BatchNorm it begins to learn.",
            "UDAStrongBaseline: the stem of the ResNet keeps the ReLU behind its first BatchNorm, which the released code "
            "drops; erased boxes are filled with the light grey of the core's augmentation.",
            "OpenUnReID: the partners of an image in the triplet are moved too; in the released code the image alone is.",
            "OpenUnReID: a row of the classifier is the normalised class mean of the features as the classifier sees them; "
            "the released code scales each feature to unit length first.",
        ),
        results=(
            Reported(
                "UDAStrongBaseline, DukeMTMC-reID to Market-1501, ResNet-50",
                {"mAP": 77.4, "rank-1": 91.0, "rank-5": 96.4, "rank-10": 97.7},
                _README,
            ),
            Reported(
                "UDAStrongBaseline, Market-1501 to DukeMTMC-reID, ResNet-50",
                {"mAP": 66.7, "rank-1": 80.0, "rank-5": 89.2, "rank-10": 92.2},
                _README,
            ),
            Reported(
                "OpenUnReID strong baseline, DukeMTMC-reID to Market-1501, ResNet-50",
                {"mAP": 75.6, "rank-1": 90.9, "rank-5": 96.6, "rank-10": 97.8},
                _ZOO,
            ),
            Reported(
                "OpenUnReID strong baseline, Market-1501 to DukeMTMC-reID, ResNet-50",
                {"mAP": 60.4, "rank-1": 75.9, "rank-5": 86.2, "rank-10": 89.8},
                _ZOO,
            ),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component(
            "backbone",
            "NonLocalResNet",
            "reidx_uda_baseline.non_local:NonLocalResNet",
            {"name": "test_resnet", "blocks": [0, 1, 1, 0]},
        ),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_uda_baseline", "configs"
