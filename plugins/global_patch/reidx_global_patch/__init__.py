"""Unsupervised Person Re-Identification Via Global-Level And Patch-Level Discriminative Feature Learning."""

from __future__ import annotations

from reidx import PluginInfo, hookimpl


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(title="Unsupervised Person Re-Identification Via Global-Level And Patch-Level Discriminative Feature Learning", api=1, licence="Apache-2.0")


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_global_patch", "configs"
