"""SpCL: a hybrid memory of images, and labels limited to stable clusters (Ge et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_FIGURE = "results figure of the released code"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Self-paced Contrastive Learning with Hybrid Memory",
        api=1,
        paper="Ge, Zhu, Chen, Zhao, Li: Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object Re-ID, "
        "NeurIPS 2020",
        url="https://arxiv.org/abs/2006.02713",
        licence="Apache-2.0",
        deviations=(
            "The memory is updated after the optimiser's step; the released code updates it within the backward pass, so that "
            "with two domains the gradients of one batch already depend on rows that the other batch updated.",
            "The softmax is plain; the released code adds 1e-6 to its denominator and to the probability before the logarithm, "
            "which matters in the first steps of a network that is not calibrated.",
            "Classes are renumbered without gaps; the released code keeps the numbers of clusters that lost all images, "
            "and masks them.",
            "No class is skipped; the released sampler drops the classes that remain after the last whole batch of a round "
            "over all classes.",
            "With two domains the bias of the BatchNorm neck stays 0, as with one domain; the released code's domain "
            "BatchNorms train it.",
            "BatchNorm statistics are computed over groups of 16 images of a domain, the number that each of the released "
            "code's four devices saw.",
            "The last epoch is reported; the released code keeps the best of repeated evaluations on the test set.",
        ),
        results=(
            Reported(
                "Market-1501, ResNet-50, unsupervised",
                {"mAP": 73.1, "rank-1": 88.1, "rank-5": 95.1, "rank-10": 97.0},
                _FIGURE,
            ),
            Reported(
                "MSMT17, ResNet-50, unsupervised",
                {"mAP": 19.1, "rank-1": 42.3, "rank-5": 55.6, "rank-10": 61.2},
                _FIGURE,
            ),
            Reported("MSMT17 to Market-1501, ResNet-50", {"mAP": 77.5, "rank-1": 89.7}, _FIGURE),
            Reported("Market-1501 to MSMT17, ResNet-50", {"mAP": 26.8, "rank-1": 53.7}, _FIGURE),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("memory", "HybridMemory", "reidx_spcl.memory:HybridMemory", {"momentum": 0.2}),
        Component("refiner", "SelfPaced", "reidx_spcl.refiner:SelfPaced", {"gap": 0.02, "quantile": 0.9}),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_spcl", "configs"
