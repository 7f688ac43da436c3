"""DAAM: attention splits a map into a domain-shared and a domain-specific part (Huang et al., 2019; AAAI 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, hookimpl


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Domain Adaptive Attention Model for Unsupervised Cross-Domain Person Re-Identification",
        api=1,
        paper="Huang, Peng, Jin, Xing, Lang, Feng: Domain Adaptive Attention Model for Unsupervised Cross-Domain Person "
        "Re-Identification, 2019; Huang, Peng, Jin, Li, Xing, Ge: Domain Adaptive Attention Learning for Unsupervised Person "
        "Re-Identification, AAAI 2020",
        url="https://arxiv.org/abs/1905.10529",
        licence="Apache-2.0",
        deviations=(
            "Only the abstracts of both versions and a summary of the second were available. They describe the split, the two "
            "branches, the nominal domain and the soft pseudo labels; formulas, weights and schedule are interpretations. Each "
            "has a config key.",
            "The first version's loss on target images is unknown; the second version's soft cross-entropy replaces it.",
            "BatchNorm takes its statistics from a configured group of images: 64 by default, half of each domain.",
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("fusion", "AttentionSplit", "reidx_daam.split:AttentionSplit", {"branch": "conv"}),
        Component("alignment", "NominalDomain", "reidx_daam.nominal:NominalDomain", {"kind": "nominal_softmax"}),
        Component("alignment", "Orthogonality", "reidx_daam.regularisers:Orthogonality"),
        Component("loss", "MaskMean", "reidx_daam.regularisers:MaskMean", {"rho": 0.5}),
        Component("refiner", "SoftLabel", "reidx_daam.soft_labels:SoftLabel", {"mode": "lsr", "eps": 0.1}),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_daam", "configs"
