"""The plugin API: three hooks that a plugin package may implement, and their return types.

A plugin is an installed distribution with an entry point in the group ``reidx.plugins``; the entry point's name is the
plugin's namespace, its value an import-light module with the hook implementations (marked ``@hookimpl``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pluggy

from reidx.registry.registry import Component

API = 1
"""API version, which a plugin states in :class:`PluginInfo`; it changes with each incompatible change of the API."""

hookspec = pluggy.HookspecMarker("reidx")
hookimpl = pluggy.HookimplMarker("reidx")


@dataclass(frozen=True)
class Reported:
    """One row of results: reported by the paper (``measured=False``, with its source) or measured with this plugin."""

    setting: str
    metrics: Mapping[str, float]
    source: str
    measured: bool = False


@dataclass(frozen=True)
class PluginInfo:
    """Metadata of a plugin: title, paper, licence, and the plugin API that it targets.

    ``deviations`` are sentences, each on one difference from the paper or its released code.
    """

    title: str
    api: int
    paper: str = ""
    url: str = ""
    licence: str = ""
    deviations: Sequence[str] = ()
    results: Sequence[Reported] = field(default_factory=tuple)


class ReidxSpec:
    """Hook specifications; each hook is called once per plugin, at discovery, without importing torch."""

    @hookspec(firstresult=True)
    def reidx_plugin(self) -> PluginInfo:  # type: ignore[empty-body]
        """Return the plugin's :class:`PluginInfo`. The only required hook."""

    @hookspec(firstresult=True)
    def reidx_components(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """Return the components, without namespace: ``Component("loss", "GSL", "p.losses:GSL")`` in ``gp`` is ``gp.GSL``."""

    @hookspec(firstresult=True)
    def reidx_configs(self) -> tuple[str, str]:  # type: ignore[empty-body]
        """Return package and folder of the plugin's configs: ``lf2::…`` reads from ``("reidx_lf2", "configs")``."""
