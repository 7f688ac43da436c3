"""Strong baselines of domain-adaptive re-ID: a labelled source, a clustered target, and a BatchNorm for each."""

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
            "UDAStrongBaseline, the baseline of Zheng et al.: Exploiting Sample Uncertainty for Domain Adaptive Person "
            "Re-Identification, AAAI 2021; and the strong baseline of OpenUnReID"
        ),
        url="https://github.com/zkcys001/UDAStrongBaseline",
        licence="Apache-2.0",
        deviations=(
            "The last epoch is reported; the released codes keep the best of repeated evaluations on the test set.",
            "BatchNorm statistics are computed over groups of 16 images of a domain, the number that each of the released "
            "code's four devices saw. Every group updates the running statistics.",
            "UDAStrongBaseline: the rows of the source's classes, which only push target images away, are drawn once; the "
            "released code draws them again together with those of the clusters, and has one extra row without a label.",
            "UDAStrongBaseline: the source's BatchNorms have no gradient in the second stage, and their weights do not change. "
            "In the released code the gradient is exactly 0, so weight decay changes the weights. Target features do not "
            "depend on them.",
            "UDAStrongBaseline: the bias of the BatchNorm neck stays 0; the released code trains it once each domain has its "
            "BatchNorm.",
            "UDAStrongBaseline: the stem of the ResNet keeps the ReLU after its first BatchNorm, which the released code "
            "leaves out; erased boxes are filled with the light grey of the core's augmentation.",
            "OpenUnReID: the triplet loss has gradients for an image's positive and negative too; in the released code only "
            "for the image.",
            "OpenUnReID: a row of the classifier is the normalised class mean of the features that the classifier receives; "
            "the released code normalises each feature first.",
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
