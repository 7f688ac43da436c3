"""Self-paced Contrastive Learning with Hybrid Memory."""

from __future__ import annotations

from reidx import PluginInfo, hookimpl


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(title="Self-paced Contrastive Learning with Hybrid Memory", api=1, licence="Apache-2.0")


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_spcl", "configs"
