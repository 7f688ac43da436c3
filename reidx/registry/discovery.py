"""Discovery of installed plugins; broken plugins are skipped with a reason.

A fault in one plugin never affects another plugin or the core: any error while a plugin is read becomes its
``problem``, the plugin is skipped with one line, and requests for its components fail with that reason.
``REIDX_PLUGINS=a,b`` reads only the named plugins (an empty value reads none); ``REIDX_STRICT_PLUGINS=1`` makes a
skipped plugin an error.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reidx._version import __version__
from reidx.errors import ConfigError, PluginError
from reidx.outline.source import package_folder
from reidx.registry.loading import Loading
from reidx.registry.plugin import Plugin, raise_as_plugin_error, read_hooks
from reidx.registry.registry import Registry

GROUP = "reidx.plugins"
NAMESPACE = r"[a-z][a-z0-9_]*"
CORE = "reidx"  # the namespace of the core in addresses: reidx::demo.yaml

log = logging.getLogger(__name__)


def registry() -> Registry:
    """Return the components of the core and of all usable plugins.

    Read once per process; each skipped plugin is logged with one line (on stderr, unless logging is set up).
    Raises :class:`PluginError` if ``REIDX_PLUGINS`` names a plugin that is not installed, and under
    ``REIDX_STRICT_PLUGINS=1`` if a plugin is skipped.
    """
    _log_skipped()
    return _discovered()[0]


def plugins() -> list[Plugin]:
    """Return the core and every plugin found, usable or not (see :attr:`Plugin.problem`); raises as :func:`registry`."""
    return list(_discovered()[1])


def config_root(namespace: str) -> Path:
    """Return the folder of the configs ``namespace::…``.

    Raises :class:`ConfigError` if the plugin does not exist, was skipped, or has no configs.
    """
    known = registry()
    for plugin in plugins():
        if (plugin.namespace or CORE) == namespace and not plugin.problem:
            return _config_folder(plugin)
    raise ConfigError(f"There are no configs {namespace}::…. {known.explain_absence(namespace)}")


def config_roots() -> dict[str, Path]:
    """Return the config folders of the core and of the usable plugins, by namespace; missing folders are left out."""
    roots = {}
    for plugin in plugins():
        if not plugin.problem and plugin.configs is not None:
            with contextlib.suppress(ConfigError):  # `reidx plugins --check` reports it
                roots[plugin.namespace or CORE] = _config_folder(plugin)
    return roots


def check(plugin: Plugin) -> list[str]:
    """Load everything that a plugin declares and return the faults; empty if there are none."""
    if plugin.problem:
        return [plugin.problem] if plugin.chosen else []
    faults = []
    for entry in plugin.entries:
        try:
            entry.load()
        except PluginError as error:
            faults.append(str(error))
    if plugin.configs is not None:
        try:
            _config_folder(plugin)
        except ConfigError as error:
            faults.append(str(error))
    return faults


def owner_of(error: BaseException) -> str | None:
    """Name the plugin whose code an error passed through, with its line and components in use; None if there is none."""
    if not _results:
        return None
    from reidx.registry.seam import contract_of_kind, entries_built_from

    for plugin in plugins():
        if plugin.namespace and (own := _own_frame(plugin, error)):
            module, line = own
            parts = entries_built_from(module)
            names = " or ".join(f"{entry.kind} {entry.name}" for entry in parts)
            contracts = "".join(f" {contract_of_kind(kind)}." for kind in dict.fromkeys(entry.kind for entry in parts))
            return f"{names or f'the plugin {plugin.namespace}'} (from {plugin.origin}), {line}.{contracts}"
    return None


def _own_frame(plugin: Plugin, error: BaseException) -> tuple[str, str] | None:
    """Return the last module and line in a plugin's own packages that an error passed through."""
    tops = {entry.component.target.partition(":")[0].partition(".")[0] for entry in plugin.entries}
    found: tuple[str, str] | None = None
    link: BaseException | None = error
    while link is not None:
        for frame, line in traceback.walk_tb(link.__traceback__):
            module = str(frame.f_globals.get("__name__", ""))
            if module.partition(".")[0] in tops:
                found = module, f"{frame.f_code.co_filename}:{line}"
        link = link.__cause__
    return found


def discover() -> tuple[Registry, list[Plugin]]:
    """Read the core and the installed plugins without a cache (:func:`registry` keeps its first result)."""
    from reidx.registry import core_components as components

    claims: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        claims.setdefault(point.name, []).append(point)
    chosen = _selection(claims)

    found = Registry()
    core = read_hooks(Plugin("", CORE, __version__), components)
    read = [core]
    loading = Loading(sorted(claims))
    for namespace in sorted(claims):
        if chosen is not None and namespace not in chosen:
            left_out = "REIDX_PLUGINS leaves it out"
            read += [replace(_claimant(point), problem=left_out, chosen=False) for point in claims[namespace]]
        else:
            read += _read_claims(claims[namespace], loading)
    loading.remove_note()
    for plugin in read:
        for entry in plugin.entries:
            found.add(entry)
        if plugin.problem:
            found.absent[plugin.namespace] = plugin.problem
    skipped = [f"{p.namespace} ({p.origin}): {p.problem}" for p in read if p.problem and p.chosen]
    if skipped and os.environ.get("REIDX_STRICT_PLUGINS", "0") not in ("", "0"):
        raise PluginError("REIDX_STRICT_PLUGINS is set and plugins are unusable:\n  " + "\n  ".join(skipped))
    return found, read


_results: list[tuple[Registry, list[Plugin]]] = []
"""The result of :func:`discover`, then the replacements by :func:`registry_override`; the last one is in effect."""


def _discovered() -> tuple[Registry, list[Plugin]]:
    if not _results:
        _results.append(discover())
    return _results[-1]


@contextlib.contextmanager
def registry_override(known: Registry, read: Sequence[Plugin] | None = None) -> Iterator[None]:
    """Replace the process-wide registry, and its plugins if ``read`` is given, inside the context; meant for tests."""
    _results.append((known, plugins() if read is None else list(read)))
    try:
        yield
    finally:
        _results.pop()


@functools.cache
def _log_skipped() -> None:
    for plugin in _discovered()[1]:
        if plugin.problem and plugin.chosen:
            name, origin = plugin.namespace, plugin.origin
            log.warning("reidx: plugin %s (%s) is skipped: %s", name, origin, plugin.problem)


def _selection(claims: Mapping[str, Any]) -> set[str] | None:
    text = os.environ.get("REIDX_PLUGINS")
    if text is None:
        return None
    chosen = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(chosen - set(claims)):
        raise PluginError(
            f"REIDX_PLUGINS names {', '.join(unknown)}, which is not installed. "
            f"Installed: {', '.join(sorted(claims)) or 'none'}."
        )
    return chosen


def _claimant(point: importlib.metadata.EntryPoint) -> Plugin:
    """Create a plugin from the metadata of its distribution, which may be damaged."""
    name = point.dist.name if point.dist else ""
    version = point.dist.version if point.dist else ""
    return Plugin(point.name, name or "(unnamed distribution)", version or "")


def _read_claims(points: list[importlib.metadata.EntryPoint], loading: Loading) -> list[Plugin]:
    """Return the plugin of a namespace, or one with a problem for each distribution that claims an unusable namespace."""
    claimants = [_claimant(point) for point in points]
    namespace, problem = points[0].name, ""
    if namespace == CORE:
        problem = f"the namespace {CORE} is reserved"
    elif not re.fullmatch(NAMESPACE, namespace):
        problem = f"the namespace {namespace!r} must be lower-case letters, digits and underscores"
    elif len({plugin.distribution for plugin in claimants}) > 1:
        rivals = ", ".join(sorted(plugin.origin for plugin in claimants))
        count = {2: "two"}.get(len(claimants), str(len(claimants)))
        problem = f"{count} distributions claim the namespace {namespace}: {rivals}; uninstall all but one"
    elif len(claimants) > 1:
        problem = f"{claimants[0].origin} declares the namespace {namespace} {len(claimants)} times"
    if problem:
        return [replace(plugin, problem=problem) for plugin in claimants]
    plugin, point = claimants[0], points[0]
    if problem := loading.exclusion_reason(namespace, plugin.origin, point.module):
        return [replace(plugin, problem=problem)]
    try:
        return [loading.load(namespace, plugin.origin, point.module, lambda: _read(plugin, point))]
    except PluginError as error:
        return [replace(plugin, problem=str(error))]


def _read(plugin: Plugin, point: importlib.metadata.EntryPoint) -> Plugin:
    return read_hooks(plugin, raise_as_plugin_error(point.load, f"importing {point.module}", own=point.module))


def _config_folder(plugin: Plugin) -> Path:
    if plugin.configs is None:
        raise ConfigError(f"The plugin {plugin.namespace} ({plugin.origin}) brings no configs.")
    package, folder = plugin.configs
    root = package_folder(package)
    if root is None or not (root / folder).is_dir():
        raise ConfigError(
            f"The configs of {plugin.origin} are missing: no folder {folder!r} in the package {package}. "
            f"Install {plugin.distribution} again (from its source folder: `pip install -e .`)."
        )
    return root / folder
