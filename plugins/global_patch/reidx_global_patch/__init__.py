"""Global/Patch: unsupervised learning from whole images and their patches (Sun, Zhao, Wu, ICIP 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, hookimpl


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Unsupervised Person Re-Identification Via Global-Level And Patch-Level Discriminative Feature Learning",
        api=1,
        paper="Sun, Zhao, Wu: Unsupervised Person Re-Identification Via Global-Level And Patch-Level Discriminative Feature "
        "Learning, ICIP 2021",
        url="https://doi.org/10.1109/ICIP42928.2021.9506220",
        licence="Apache-2.0",
        deviations=(
            "Only the paper's abstract was available. The patch level is PAUL's, whose losses the abstract names; the global "
            "level is an interpretation of the abstract, with the memory classifiers of ECN and MMCL. Each interpretation has "
            "a config key.",
            "The network starts from ImageNet weights and the patches are fixed stripes; PAUL starts from a labelled "
            "pre-training, which is `global_patch::pretrain.yaml` here.",
            "The patch memory is filled in evaluation mode; PAUL fills it in training mode.",
            "The surrogate view is rotated and cropped by one bilinear sampling, after the image is resized.",
            "Batches have 40 images on both data sets (PAUL's: 42 on Market-1501), resized by bicubic interpolation (PAUL's: "
            "bilinear).",
            "Credible samples are found once per epoch, not in each step.",
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    home = "reidx_global_patch"
    return (
        Component("transform", "Surrogate", f"{home}.surrogate:Surrogate"),
        Component("fusion", "GlobalPatch", f"{home}.fusion:GlobalPatch"),
        Component("refiner", "CredibleSamples", f"{home}.credible:CredibleSamples", {"kind": "mutual_knn"}),
        Component("memory", "ExemplarMemory", f"{home}.exemplars:ExemplarMemory"),
        Component("memory", "PatchMemory", f"{home}.patches:PatchMemory"),
        Component("memory", "ImageCentres", f"{home}.centres:ImageCentres"),
        Component("loss", "GSL", f"{home}.gsl:GSL", {"form": "mean_log"}),
        Component("loss", "PEDAL", f"{home}.pedal:PEDAL", {"scale": 15.0, "k": 10}),
        Component("loss", "IPFL", f"{home}.ipfl:IPFL", {"margin": 2.0}),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_global_patch", "configs"
