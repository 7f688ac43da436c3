"""Finding the installed plugins, keeping the broken ones out, and saying why they are out.

One plugin's fault never reaches another plugin or the core: whatever goes wrong while a plugin is read
becomes its ``problem``, it is skipped with one line, and everything that asks for one of its parts is told
the reason. ``REIDX_PLUGINS=a,b`` reads only the named plugins (an empty value none),
``REIDX_STRICT_PLUGINS=1`` makes a skipped plugin an error.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import inspect
import logging
import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pluggy

import reidx
from reidx.errors import ConfigError, PluginError
from reidx.hookspecs import API, PluginInfo, ReidxSpec
from reidx.registry import Component, Entry, Registry
from reidx.source import package_folder

GROUP = "reidx.plugins"
CORE = "reidx"  # what the core is called where a namespace is written: reidx::demo.yaml
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """One plugin as found: who it is and what it brings, or the ``problem`` that keeps it out.

    The core is one too, with the empty namespace. ``configs`` are package and folder, ``commands`` map a name
    to ``"module:function"``.
    """

    namespace: str
    distribution: str
    version: str
    info: PluginInfo | None = None
    entries: Sequence[Entry] = ()
    configs: tuple[str, str] | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    chosen: bool = True  # False: not broken, but left out by REIDX_PLUGINS

    @property
    def origin(self) -> str:
        """Distribution and version: ``reidx-lf2 0.1``."""
        return f"{self.distribution} {self.version}".strip()


def registry() -> Registry:
    """The components of the core and of all usable plugins; read once, skipped plugins are named on stderr
    then.

    Raises :class:`PluginError` when ``REIDX_PLUGINS`` names a plugin that is not installed, and under
    ``REIDX_STRICT_PLUGINS=1`` when a plugin had to be skipped.
    """
    _announce()
    return _found()[0]


def plugins() -> list[Plugin]:
    """The core and every plugin that was read, usable or not (see :attr:`Plugin.problem`); raises as
    :func:`registry`."""
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
    for name in plugin.commands:
        try:
            load_command(plugin, name)
        except PluginError as error:
            faults.append(str(error))
    return faults


def load_command(plugin: Plugin, name: str) -> Callable[[Sequence[str]], int]:
    """The function behind one of the plugin's commands; raises :class:`PluginError` when it cannot be had."""
    target = plugin.commands[name]
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        what = f"command {name} (from {plugin.origin}, {target})"
        raise PluginError(f"{what} cannot be loaded: {error}.") from error


def discover() -> tuple[Registry, list[Plugin]]:
    """Read the core and the plugins installed at this moment; :func:`registry` and :func:`plugins` keep the
    result."""
    from reidx import components

    claims: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        claims.setdefault(point.name, []).append(point)
    chosen = _selection(claims)

    found = Registry()
    core = _read(Plugin("", CORE, reidx.__version__), components)
    read = [core]
    for namespace in sorted(claims):
        if chosen is not None and namespace not in chosen:
            left_out = "REIDX_PLUGINS leaves it out"
            read += [replace(_claimant(point), problem=left_out, chosen=False) for point in claims[namespace]]
        else:
            read += _claimed(claims[namespace])
    for plugin in read:
        for entry in plugin.entries:
            found.add(entry)
        if plugin.problem:
            found.absent[plugin.namespace] = plugin.problem
    skipped = [f"{p.namespace} ({p.origin}): {p.problem}" for p in read if p.problem and p.chosen]
    if skipped and os.environ.get("REIDX_STRICT_PLUGINS", "0") not in ("", "0"):
        raise PluginError("REIDX_STRICT_PLUGINS is set and plugins are unusable:\n  " + "\n  ".join(skipped))
    return found, read


@functools.cache
def _found() -> tuple[Registry, list[Plugin]]:
    return discover()


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
    """A plugin of which only the distribution is known."""
    return Plugin(
        point.name, point.dist.name if point.dist else "?", point.dist.version if point.dist else ""
    )


def _claimed(points: list[importlib.metadata.EntryPoint]) -> list[Plugin]:
    """The plugin of a namespace; where it cannot be used, one problem for every distribution that claims it."""
    claimants = [_claimant(point) for point in points]
    namespace, problem = points[0].name, ""
    if namespace == CORE:
        problem = f"the namespace {CORE} is reserved"
    elif not re.fullmatch(r"[a-z][a-z0-9_]*", namespace):
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
    try:
        return [_read(plugin, _guard(point.load, f"importing {point.module}", own=point.module))]
    except PluginError as error:
        return [replace(plugin, problem=str(error))]


def _read(plugin: Plugin, module: object) -> Plugin:
    """``plugin`` filled in by its hooks; raises :class:`PluginError` with the reason to skip it.

    Each plugin has a manager of its own: hooks are asked of one plugin at a time, and what one breaks stays
    there.
    """
    manager = pluggy.PluginManager("reidx")
    manager.add_hookspecs(ReidxSpec)
    _guard(lambda: manager.register(module, name=plugin.namespace or CORE), "its hooks")

    def ask(hook: str) -> Any:
        return _guard(getattr(manager.hook, hook), f"its hook {hook}")

    if not manager.hook.reidx_plugin.get_hookimpls():
        _check_hooks(manager, module)  # a misspelt or unmarked hook is the likelier reason
        raise PluginError("it has no hook reidx_plugin, the one that must be there")
    info = _check_info(ask("reidx_plugin"))
    _check_hooks(manager, module)  # after the API number: a newer API may have hooks unknown here
    described = replace(plugin, info=info)
    entries = _check_components(ask("reidx_components") or (), described)
    configs = _check_configs(ask("reidx_configs"))
    commands = _check_commands(ask("reidx_commands") or {})
    return replace(described, entries=entries, configs=configs, commands=commands)


def _check_info(info: object) -> PluginInfo:
    if not isinstance(info, PluginInfo):
        raise PluginError(f"reidx_plugin returned {type(info).__name__}, not PluginInfo")
    if info.api != API:
        older = "reidx" if isinstance(info.api, int) and info.api > API else "the plugin"
        raise PluginError(f"was written for plugin API {info.api}, this reidx speaks {API}: upgrade {older}")
    return info


def _check_hooks(manager: pluggy.PluginManager, module: object) -> None:
    hooks = [name for name in vars(ReidxSpec) if name.startswith("reidx_")]
    for name, caller in sorted(vars(manager.hook).items()):
        if isinstance(caller, pluggy.HookCaller) and not caller.has_spec():
            close = difflib.get_close_matches(name, hooks, n=1)
            raise PluginError(
                f"hook {name} is misspelt; did you mean {close[0]}?"
                if close
                else f"there is no hook {name}; the hooks are {', '.join(hooks)}"
            )
    for name in hooks:
        marked = getattr(manager.hook, name).get_hookimpls()
        if inspect.isfunction(getattr(module, name, None)) and not marked:
            raise PluginError(f"the function {name} is not marked @reidx.hookimpl")


def _check_components(components: object, plugin: Plugin) -> list[Entry]:
    if not isinstance(components, list | tuple):
        raise PluginError(f"reidx_components returned {type(components).__name__}, not a list of Component")
    unique = Registry()  # a plugin's entries go in together or not at all
    for component in components:
        if not isinstance(component, Component):
            raise PluginError(f"reidx_components lists a {type(component).__name__}, not a Component")
        if not component.name.isidentifier():
            raise PluginError(f"component {component.name!r} must be a plain name; reidx adds the namespace")
        _check_target(f"component {component.name}", component.target, "Class")
        unique.add(Entry(component, plugin.namespace, plugin.origin))
    return list(unique.entries())


def _check_configs(configs: object) -> tuple[str, str] | None:
    if configs is None:
        return None
    match configs:
        case (str(package), str(folder)):
            return package, folder
    raise PluginError(f"reidx_configs returned {configs!r}, not (package, folder)")


def _check_commands(commands: object) -> dict[str, str]:
    if not isinstance(commands, Mapping):
        raise PluginError(f"reidx_commands returned {type(commands).__name__}, not a dict")
    for name, target in commands.items():
        _check_target(f"command {name}", target, "function")
    return dict(commands)


def _check_target(what: str, target: object, attribute: str) -> None:
    if not (isinstance(target, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", target)):
        raise PluginError(f"{what} names {target!r}; write it as 'module:{attribute}'")


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


def _guard(action: Callable[[], T], doing: str, own: str = "") -> T:
    """``action()``, with anything it raises (SystemExit too) turned into a :class:`PluginError` that gives
    the reason."""
    try:
        return action()
    except (KeyboardInterrupt, PluginError):
        raise
    except BaseException as error:
        raise PluginError(_reason(error, doing, own)) from error


def _reason(error: BaseException, doing: str, own: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        if own and f"{own}.".startswith(f"{error.name}."):
            return f"its module {own} does not exist; install the plugin again"
        return f"needs {error.name}, which is not installed"
    text = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        return f"{doing} exits the program (SystemExit: {text})"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{doing} failed: {type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"
