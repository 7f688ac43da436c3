"""Finding the installed plugins, keeping the broken ones out, and saying why they are out.

One plugin's fault never reaches another plugin or the core: whatever goes wrong while a plugin is read
becomes its ``problem``, it is skipped with one line, and everything that asks for one of its parts is told
the reason. ``REIDX_PLUGINS=a,b`` reads only the named plugins (an empty value none),
``REIDX_STRICT_PLUGINS=1`` makes a skipped plugin an error.
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
from reidx.registry.plugin import Plugin, guarded, read_hooks
from reidx.registry.registry import Registry

GROUP = "reidx.plugins"
NAMESPACE = r"[a-z][a-z0-9_]*"
CORE = "reidx"  # what the core is called where a namespace is written: reidx::demo.yaml

log = logging.getLogger(__name__)


def registry() -> Registry:
    """The components of the core and of all usable plugins.

    Read once in a process; a line for each skipped plugin is logged then (on stderr, unless logging is set up).
    Raises :class:`PluginError` when ``REIDX_PLUGINS`` names a plugin that is not installed, and under
    ``REIDX_STRICT_PLUGINS=1`` when a plugin had to be skipped.
    """
    _announce()
    return _found()[0]


def plugins() -> list[Plugin]:
    """The core and every plugin found, usable or not (see :attr:`Plugin.problem`); raises as :func:`registry`."""
    return list(_found()[1])


def config_root(namespace: str) -> Path:
    """The folder that ``namespace::…`` reads its configs from.

    Raises :class:`ConfigError` when there is no such plugin, it was skipped, or it brings no configs.
    """
    known = registry()
    for plugin in plugins():
        if (plugin.namespace or CORE) == namespace and not plugin.problem:
            return _config_folder(plugin)
    raise ConfigError(f"There are no configs {namespace}::…. {known.explain_absence(namespace)}")


def config_roots() -> dict[str, Path]:
    """The folders of configs of the core and of the usable plugins, by namespace; those that are missing left out."""
    roots = {}
    for plugin in plugins():
        if not plugin.problem and plugin.configs is not None:
            with contextlib.suppress(ConfigError):  # `reidx plugins --check` tells it
                roots[plugin.namespace or CORE] = _config_folder(plugin)
    return roots


def check(plugin: Plugin) -> list[str]:
    """What is wrong with a plugin once everything it promises is loaded; empty when all is well."""
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
    """The plugin whose code an error came through, its own line and what is in use of that module; None without one."""
    if not _results:
        return None
    from reidx.registry.seam import contract_of_kind, in_use

    for plugin in plugins():
        if plugin.namespace and (own := _own_frame(plugin, error)):
            module, line = own
            parts = in_use(module)
            names = " or ".join(f"{entry.kind} {entry.name}" for entry in parts)
            contracts = "".join(f" {contract_of_kind(kind)}." for kind in dict.fromkeys(entry.kind for entry in parts))
            return f"{names or f'the plugin {plugin.namespace}'} (from {plugin.origin}), {line}.{contracts}"
    return None


def _own_frame(plugin: Plugin, error: BaseException) -> tuple[str, str] | None:
    """The last module of a plugin's own packages that an error came through, and the line."""
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
    """The core and the plugins installed at this moment, read anew (:func:`registry` keeps its first result)."""
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
            read += _claimed(claims[namespace], loading)
    loading.done()
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
"""The result of :func:`discover`, once there is one, then the replacements that :func:`installed` made; the last counts."""


def _found() -> tuple[Registry, list[Plugin]]:
    if not _results:
        _results.append(discover())
    return _results[-1]


@contextlib.contextmanager
def installed(known: Registry, read: Sequence[Plugin] | None = None) -> Iterator[None]:
    """Replace the registry of the whole process, and its plugins where ``read`` is given, for the block: the door for tests."""
    _results.append((known, plugins() if read is None else list(read)))
    try:
        yield
    finally:
        _results.pop()


@functools.cache
def _announce() -> None:
    for plugin in _found()[1]:
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
    """A plugin of which only the distribution is known (less than that where its metadata are damaged)."""
    name = point.dist.name if point.dist else ""
    version = point.dist.version if point.dist else ""
    return Plugin(point.name, name or "(unnamed distribution)", version or "")


def _claimed(points: list[importlib.metadata.EntryPoint], loading: Loading) -> list[Plugin]:
    """The plugin of a namespace; where it cannot be used, one problem for every distribution that claims it."""
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
    if problem := loading.kept_out(namespace, plugin.origin, point.module):
        return [replace(plugin, problem=problem)]
    try:
        return [loading.load(namespace, plugin.origin, point.module, lambda: _read(plugin, point))]
    except PluginError as error:
        return [replace(plugin, problem=str(error))]


def _read(plugin: Plugin, point: importlib.metadata.EntryPoint) -> Plugin:
    return read_hooks(plugin, guarded(point.load, f"importing {point.module}", own=point.module))


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
