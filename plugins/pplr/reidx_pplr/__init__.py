"""Part-based Pseudo Label Refinement for Unsupervised Person Re-identification."""

from __future__ import annotations

from reidx import PluginInfo, hookimpl


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(title="Part-based Pseudo Label Refinement for Unsupervised Person Re-identification", api=1, licence="Apache-2.0")


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_pplr", "configs"
