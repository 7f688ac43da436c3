"""The plugin API: the three hooks a plugin package may implement, and what they return.

A plugin is an installed distribution with an entry point in the group ``reidx.plugins``; the entry point's name is the
plugin's namespace, its value an import-light module that carries the hook implementations (marked ``@hookimpl``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pluggy

from reidx.registry.registry import Component

API = 1
"""The number a plugin states in :class:`PluginInfo`; it changes when a hook or a seam changes incompatibly."""

hookspec = pluggy.HookspecMarker("reidx")
hookimpl = pluggy.HookimplMarker("reidx")


@dataclass(frozen=True)
class Reported:
    """One row of numbers: of the paper (``measured=False``, with its source) or measured with this plugin."""

    setting: str
    metrics: Mapping[str, float]
    source: str
    measured: bool = False


@dataclass(frozen=True)
class PluginInfo:
    """Who a plugin is: title, paper, licence, and the plugin API it was written for.

    ``deviations`` are sentences, each saying where the plugin departs from the paper or its released code.
    """

    title: str
    api: int
    paper: str = ""
    url: str = ""
    licence: str = ""
    deviations: Sequence[str] = ()
    results: Sequence[Reported] = field(default_factory=tuple)


class ReidxSpec:
    """The hooks. Each is called once for each plugin, at discovery, without importing torch."""

    @hookspec(firstresult=True)
    def reidx_plugin(self) -> PluginInfo:  # type: ignore[empty-body]
        """The plugin's :class:`PluginInfo`. The only hook that must be there."""

    @hookspec(firstresult=True)
    def reidx_components(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """The components, unscoped: ``Component("loss", "GSL", "pkg.losses:GSL")`` of plugin ``gp`` becomes ``gp.GSL``."""

    @hookspec(firstresult=True)
    def reidx_configs(self) -> tuple[str, str]:  # type: ignore[empty-body]
        """Package and folder of the plugin's configs: ``("reidx_lf2", "configs")`` is what ``lf2::…`` reads."""
