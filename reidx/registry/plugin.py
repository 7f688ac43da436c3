"""Plugins: their contents, read from their hooks, or the reason why a plugin is unusable."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from reidx.errors import PluginError, suggest
from reidx.registry.describing import describe_value, one_line, raised_on_purpose
from reidx.registry.hookspecs import API, PluginInfo, ReidxSpec
from reidx.registry.registry import Component, Entry, Registry

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """A discovered plugin: its metadata and contents, or the ``problem`` that makes it unusable.

    The core is a plugin too, with the empty namespace. ``configs`` is package and folder.
    """

    namespace: str
    distribution: str
    version: str
    info: PluginInfo | None = None
    entries: Sequence[Entry] = ()
    configs: tuple[str, str] | None = None
    problem: str = ""
    chosen: bool = True  # False: usable, but excluded by REIDX_PLUGINS

    @property
    def origin(self) -> str:
        """Distribution and version: ``reidx-lf2 0.1``."""
        return f"{self.distribution} {self.version}".strip()


def read_hooks(plugin: Plugin, module: object) -> Plugin:
    """Fill in ``plugin`` from its hooks; raises :class:`PluginError` with the reason to skip it.

    Each plugin has a separate plugin manager, so that a fault in its hooks affects no other plugin.
    """
    manager = pluggy.PluginManager("reidx")
    manager.add_hookspecs(ReidxSpec)
    raise_as_plugin_error(lambda: manager.register(module, name=plugin.namespace or "reidx"), "its hooks")

    def call_hook(hook: str) -> Any:
        return raise_as_plugin_error(getattr(manager.hook, hook), f"its hook {hook}")

    if not manager.hook.reidx_plugin.get_hookimpls():
        _check_hooks(manager, module)  # a misspelt or unmarked hook is the likelier reason
        raise PluginError("it has no hook reidx_plugin, which is required")
    info = _check_info(call_hook("reidx_plugin"))
    _check_hooks(manager, module)  # after the API number: a newer API may have hooks unknown here
    described = replace(plugin, info=info)
    entries = _check_components(call_hook("reidx_components") or (), described)
    configs = _check_configs(call_hook("reidx_configs"))
    return replace(described, entries=entries, configs=configs)


def _check_info(info: object) -> PluginInfo:
    if not isinstance(info, PluginInfo):
        raise PluginError(f"reidx_plugin returned {type(info).__name__}, not PluginInfo")
    for field_name in ("title", "paper", "url", "licence"):
        if not isinstance(getattr(info, field_name), str):
            raise PluginError(f"reidx_plugin gives as {field_name} {describe_value(getattr(info, field_name))}, not a text")
    if not isinstance(info.api, int) or isinstance(info.api, bool):
        raise PluginError(f"reidx_plugin gives as api {describe_value(info.api)}, not a number; this reidx has API {API}")
    if info.api != API:
        older = "reidx" if info.api > API else "the plugin"
        raise PluginError(f"was written for plugin API {info.api}, but this reidx has API {API}: upgrade {older}")
    return info


def _check_hooks(manager: pluggy.PluginManager, module: object) -> None:
    hooks = [name for name in vars(ReidxSpec) if name.startswith("reidx_")]
    for name, caller in sorted(vars(manager.hook).items()):
        if isinstance(caller, pluggy.HookCaller) and not caller.has_spec():
            hint = suggest(name, hooks) or f"The hooks are {', '.join(hooks)}."
            raise PluginError(f"there is no hook {name}. {hint.rstrip('.')}")  # the caller ends the sentence
    for name in hooks:
        marked = getattr(manager.hook, name).get_hookimpls()
        if inspect.isfunction(getattr(module, name, None)) and not marked:
            raise PluginError(f"the function {name} is not marked @reidx.hookimpl")


def _check_components(components: object, plugin: Plugin) -> list[Entry]:
    if not isinstance(components, list | tuple):
        raise PluginError(f"reidx_components returned {type(components).__name__}, not a list of Component")
    unique = Registry()  # register all entries of a plugin or none
    for component in components:
        if not isinstance(component, Component):
            raise PluginError(f"reidx_components lists a {type(component).__name__}, not a Component")
        if not component.name.isidentifier():
            raise PluginError(f"component {component.name!r} must be a plain name; reidx adds the namespace")
        _check_target(f"component {component.name}", component.target)
        unique.add(Entry(component, plugin.namespace, plugin.origin))
    return list(unique.entries())


def _check_configs(configs: object) -> tuple[str, str] | None:
    if configs is None:
        return None
    match configs:
        case (str(package), str(folder)):
            return package, folder
    raise PluginError(f"reidx_configs returned {configs!r}, not (package, folder)")


def _check_target(owner: str, target: object) -> None:
    if not (isinstance(target, str) and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", target)):
        raise PluginError(f"{owner} names {target!r}; write it as 'module:Class'")


def raise_as_plugin_error(action: Callable[[], T], doing: str, own: str = "") -> T:
    """Call ``action`` and turn any exception (also SystemExit) into a :class:`PluginError` with the reason."""
    try:
        return action()
    except PluginError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not raised_on_purpose(error):
            raise
        raise PluginError(_reason(error, doing, own)) from error


def _reason(error: BaseException, doing: str, own: str) -> str:
    if isinstance(error, ModuleNotFoundError) and isinstance(error.name, str) and error.name:
        if own and f"{own}.".startswith(f"{error.name}."):
            return f"its module {own} does not exist; install the plugin again"
        return f"needs {error.name}, which is not installed"
    text = one_line(error)
    if isinstance(error, SystemExit):
        return f"{doing} exits the program (SystemExit: {text})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    frame = frames[-1]
    file, line = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (frame.filename, frame.lineno)
    description = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{doing} failed: {description} ({Path(file or frame.filename).name}:{line})"
