"""OSNet for reidx: the backbone ``osnet.OSNet`` and its published head ``osnet.Embedding``, and torchreid's files."""

from __future__ import annotations

from reidx import Component, PluginInfo, hookimpl


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="OSNet: omni-scale feature learning",
        paper="Zhou, Yang, Cavallaro, Xiang: Omni-Scale Feature Learning for Person Re-Identification, ICCV 2019; "
        "Learning Generalisable Omni-Scale Representations for Person Re-Identification, TPAMI 2021",
        url="https://arxiv.org/abs/1905.00953",
        licence="Apache-2.0",
        api=1,
        deviations=(
            "The linear layer after the pooling is a separate fusion (osnet.Embedding), because a backbone of reidx ends in "
            "a feature map.",
            "The TPAMI paper's instance-normalised variants (OSNet-IBN, OSNet-AIN) are not included.",
        ),
    )


@hookimpl
def reidx_components() -> list[Component]:
    return [
        Component("backbone", "OSNet", "reidx_osnet.model:OSNet", example={"width": 0.25}),
        Component("fusion", "Embedding", "reidx_osnet.embedding:Embedding", example={}),
        Component("weights", "Torchreid", "reidx_osnet.layout:Torchreid"),
    ]
