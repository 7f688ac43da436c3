"""The parts in a config: a component's spec, an optimiser's, a schedule's, checked and with their defaults."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from reidx import builder
from reidx.config_node import KeyPath, Node, Origin, dotted, kind_of
from reidx.errors import ConfigError
from reidx.registry import KINDS

Fill = Callable[[type, Node, KeyPath], Node]
"""Checks a mapping against a schema class and writes out its defaults."""


def need_mapping(node: Node, path: KeyPath) -> None:
    """Raise :class:`ConfigError` unless the value at ``path`` is a mapping."""
    if not isinstance(node.value, dict):
        what = dotted(path) or "the experiment"
        raise ConfigError(f"{node.origin}: {what} is {kind_of(node.plain())}; it must be a mapping of keys.")


def component(meta: Mapping[str, Any], node: Node, path: KeyPath, fill: Fill) -> Node:
    """A component's spec with its own defaults, and those of the engine's keys in it."""
    kind, key, wiring = meta["kind"], meta.get("key", "type"), meta.get("wiring")
    where = f"{node.origin}: {dotted(path)}"
    if isinstance(node.value, str):
        node = Node({key: Node(node.value, node.origin)}, node.origin)
    if not isinstance(node.value, dict) or key not in node.value:
        raise ConfigError(
            f"{where} is {kind_of(node.plain())}{'' if node.value != {} else ' without keys'}; "
            f"a {kind} is written as a name or as {{{key}: name, …}}."
        )
    wired = {field.name for field in dataclasses.fields(wiring)} if wiring else set()
    given = {name: child for name, child in node.value.items() if name not in wired and name != key}
    name = node.value[key].plain()
    spec = {"type": name, **{k: child.plain() for k, child in given.items()}}
    full = builder.fill_defaults(kind, spec, KINDS[kind].context, where=where)
    filled = {key: node.value[key]}
    default = Origin(f"default of {name}")
    for k, value in full.items():
        if k != "type":
            filled[k] = given[k] if k in given else Node.of(value, default)
    if wiring:
        own = Node({k: child for k, child in node.value.items() if k in wired}, node.origin)
        filled.update(fill(wiring, own, path).value)
    return Node(filled, node.origin)


def called(catalogue: str, node: Node, path: KeyPath) -> Node:
    """The spec of a torch optimiser or an mmengine scheduler, its keys checked against the class."""
    need_mapping(node, path)
    offered = _catalogue(catalogue)
    name = node.value["type"].plain() if "type" in node.value else None
    if name not in offered:
        close = difflib.get_close_matches(str(name), offered, n=3)
        raise ConfigError(
            f"{node.origin}: {dotted(path)}: there is no {catalogue} {name!r}. "
            f"{'Did you mean ' + ' or '.join(close) if close else 'Known: ' + ', '.join(offered)}."
        )
    known = {k: p for k, p in _settings(offered[name]).items() if k not in _ENGINES_OWN}
    for key, child in node.value.items():
        if key == "type":
            continue
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" It accepts: {', '.join(known)}."
            raise ConfigError(f"{child.origin}: {dotted(path)}: {name} has no setting {key!r}.{hint}")
        if not builder.fits(child.plain(), known[key].hint):
            raise ConfigError(
                f"{child.origin}: {dotted((*path, key))} is {child.plain()!r} ({kind_of(child.plain())}); "
                f"expected {known[key].annotation}."
            )
    return node


_ENGINES_OWN = ("params", "optimizer", "param_name", "by_epoch", "last_step", "verbose")
"""Arguments of optimisers and schedulers that are the engine's to give."""


def _settings(cls: type) -> dict[str, builder.Parameter]:
    """The keywords of a class; where its constructor only hands on ``*args``, those of the class it hands them to."""
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is not None and not any(
            p.kind is p.VAR_POSITIONAL for p in inspect.signature(init).parameters.values()
        ):
            return builder.parameters_of(base)
    return builder.parameters_of(cls)


def _catalogue(name: str) -> dict[str, type]:
    if name == "optimizer":
        import torch

        offered, base = vars(torch.optim), torch.optim.Optimizer
    else:
        from mmengine.optim.scheduler import lr_scheduler, param_scheduler

        offered, base = vars(lr_scheduler), param_scheduler._ParamScheduler
    return {
        name: cls
        for name, cls in offered.items()
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base and not name.startswith("_")
    }
