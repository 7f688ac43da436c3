"""PPLR: pseudo labels refined by the agreement of an image's parts with the whole (Cho et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_PAGE = "the paper's Papers-with-Code page"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Part-based Pseudo Label Refinement for Unsupervised Person Re-identification",
        api=1,
        paper="Cho, Kim, Hong, Yoon: Part-based Pseudo Label Refinement for Unsupervised Person Re-identification, CVPR 2022",
        url="https://arxiv.org/abs/2203.14675",
        licence="Apache-2.0",
        deviations=(
            "The classifiers' rows are new parameters at each relabelling, so their Adam moments start from zero; the "
            "released code overwrites the rows in place and keeps the moments of the cluster that had them before.",
            "The rows are the normalised class means of the features that the classifier receives; the released code "
            "normalises each feature first (rows: unit_centroid does the same).",
            "In the small recipe the rows learn at ten times the learning rate; no paper does this.",
            "BatchNorm statistics are computed over groups of 16 images, the number that each of the released code's four "
            "devices saw. Every group updates the running statistics; in the released code only the first device does.",
            "If there are fewer than 50 proxies of other clusters, an image is compared only with those; the released code "
            "fills the remaining places with proxies of the image's own cluster.",
            "The last epoch is reported; the released code keeps the best of repeated evaluations on the test set.",
        ),
        results=(
            Reported(
                "Market-1501, ResNet-50, unsupervised, with cameras",
                {"mAP": 84.4, "rank-1": 94.3, "rank-5": 97.8, "rank-10": 98.6},
                _PAGE,
            ),
            Reported(
                "MSMT17, ResNet-50, unsupervised, with cameras",
                {"mAP": 42.2, "rank-1": 73.3, "rank-5": 83.5, "rank-10": 86.5},
                _PAGE,
            ),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("fusion", "Stripes", "reidx_pplr.stripes:Stripes", {"parts": 3}),
        Component("refiner", "CrossAgreement", "reidx_pplr.agreement:CrossAgreement", {"k": 20}),
        Component("memory", "CameraProxies", "reidx_pplr.cameras:CameraProxies"),
        Component("loss", "PGLR", "reidx_pplr.losses:PGLR", {"beta": 0.5}),
        Component("loss", "AALS", "reidx_pplr.losses:AALS"),
        Component("loss", "CameraContrast", "reidx_pplr.cameras:CameraContrast", {"temperature": 0.07, "hard": 50}),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_pplr", "configs"
