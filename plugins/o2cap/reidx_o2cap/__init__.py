"""O2CAP and CAP: clusters split by camera into proxies, and losses between images and proxies (Wang et al., 2021 and 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, Reported, hookimpl

_FIGURE = "results figure of the released code"


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(
        title="Offline-Online Associated Camera-Aware Proxies for Unsupervised Person Re-identification",
        api=1,
        paper=(
            "Wang, Li, Lai, Gong, Hua: Offline-Online Associated Camera-Aware Proxies for Unsupervised Person "
            "Re-identification, IEEE TIP 2022"
        ),
        url="https://arxiv.org/abs/2201.05820",
        licence="Apache-2.0",
        deviations=(
            "No proxy is skipped; the released sampler drops the proxies that remain after the last whole batch of a round.",
            "If there are fewer than 50 negatives, or fewer than 3 cameras, an image is compared only with those; "
            "the released code stops, or counts negatives as positives.",
            "CAP's epochs have a fixed number of steps; in its released code the number of clustered images sets it.",
            "CAP's backbone has the ReLU of ResNet's first layer; the released network leaves it out.",
        ),
        results=(
            Reported(
                "Market-1501, ResNet-50, O2CAP", {"mAP": 82.7, "rank-1": 92.5, "rank-5": 96.9, "rank-10": 98.0}, _FIGURE
            ),
            Reported("MSMT17, ResNet-50, O2CAP", {"mAP": 42.4, "rank-1": 72.0, "rank-5": 81.9, "rank-10": 85.4}, _FIGURE),
            Reported("Market-1501, ResNet-50, CAP", {"mAP": 79.2, "rank-1": 91.4, "rank-5": 96.3, "rank-10": 97.7}, _FIGURE),
            Reported("MSMT17, ResNet-50, CAP", {"mAP": 36.9, "rank-1": 67.4, "rank-5": 78.0, "rank-10": 81.4}, _FIGURE),
        ),
    )


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("sampler", "ProxyPK", "reidx_o2cap.sampler:ProxyPK", {"proxies": 8, "instances": 4}),
        Component("memory", "ProxyMemory", "reidx_o2cap.memory:ProxyMemory", {"momentum": 0.2}),
        Component("loss", "IntraCamera", "reidx_o2cap.losses:IntraCamera", {"temperature": 0.07}),
        Component("loss", "OfflineAssociation", "reidx_o2cap.losses:OfflineAssociation", {"temperature": 0.07, "hard": 50}),
        Component("loss", "OnlineAssociation", "reidx_o2cap.losses:OnlineAssociation", {"temperature": 0.07, "positives": 3}),
    )


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_o2cap", "configs"
