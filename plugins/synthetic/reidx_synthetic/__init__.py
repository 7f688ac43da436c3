"""Rendered people: domains for demos and tests, drawn on first use, with a real gap between source and target."""

from __future__ import annotations

from collections.abc import Sequence

from reidx import Component, PluginInfo, hookimpl


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(title="Rendered people for demos and tests", api=1, licence="Apache-2.0")


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("dataset", "People", "reidx_synthetic.people:People", {"domain": "source"}),
        Component("dataset", "VisibleInfrared", "reidx_synthetic.visible_infrared:VisibleInfrared", {"modality": "visible"}),
    )
