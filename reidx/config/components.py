"""Specs of components and log back-ends in a config: key checks and defaults."""

from __future__ import annotations

import functools
import operator
import typing
from collections.abc import Collection
from typing import Any

from reidx.config.node import KeyPath, Node, Origin, dotted, kind_of
from reidx.config.renamed import RENAMED
from reidx.errors import ConfigError, ReidxError, excerpt, suggest
from reidx.registry import build as builder
from reidx.registry.constructor import bad_number, fits, quoting_advice
from reidx.registry.library import keywords_of, library
from reidx.registry.registry import KINDS


def need_mapping(node: Node, path: KeyPath) -> None:
    """Raise :class:`ConfigError` unless the value at ``path`` is a mapping."""
    if not isinstance(node.value, dict):
        what = dotted(path) or "the experiment"
        raise ConfigError(f"{node.origin}: {what} is {kind_of(node.plain())}; it must be a mapping of keys.")


def component_node(kind: str, node: Node, path: KeyPath) -> Node:
    """Fill a component's spec with the defaults of its constructor; those of a library's class are not written out."""
    where = f"{node.origin}: {dotted(path)}"
    node = _with_type(node, kind, where)
    given = {name: child for name, child in node.value.items() if name != "type"}
    name = node.value["type"].plain()
    if name in library(kind):
        return library_component_node(kind, node, path)
    spec = {"type": name, **{k: child.plain() for k, child in given.items()}}
    places = {k: str(child.origin) for k, child in given.items() if child.origin != node.origin}
    full = builder.fill_defaults(kind, spec, KINDS[kind].context, where=where, places=places)
    filled = {"type": node.value["type"]}
    default = Origin(f"default of {name}")
    nested = builder.nested_in(kind, name)
    for k, value in full.items():
        if k != "type":
            child = given[k] if k in given else Node.of(value, default)
            inner = k in nested and child.value is not None
            filled[k] = _nested_node(nested[k], child, (*path, k)) if inner else child
    return Node(filled, node.origin)


def _nested_node(kind: str, node: Node, path: KeyPath) -> Node:
    """Fill the spec that an argument of another component holds, or each of a list of specs."""
    if not isinstance(node.value, list):
        return component_node(kind, node, path)
    return Node([component_node(kind, child, (*path, n)) for n, child in enumerate(node.value)], node.origin)


def arguments_of(kind: str, name: str) -> Collection[str]:
    """Return the names of a component's arguments; none if it is unknown or cannot be loaded."""
    try:
        return builder.signature_of(builder.entry_of(kind, {"type": name}))
    except ReidxError:
        return ()


def _with_type(node: Node, kind: str, where: str) -> Node:
    """Return ``node`` as a mapping whose ``type`` names the component; expands the short form (the name alone)."""
    if isinstance(node.value, str):
        return Node({"type": node}, node.origin)
    name = node.value.get("type") if isinstance(node.value, dict) else None
    if name is not None and isinstance(name.value, str):
        return node
    found = kind_of(node.plain())
    if isinstance(node.value, dict):
        found += " without 'type'" if name is None else f" whose 'type' is {kind_of(name.plain())}"
    article = "an" if kind[0] in "aeiou" else "a"
    raise ConfigError(f"{where} is {found}; {article} {kind} is written as a name or as {{type: name, …}}.")


def library_component_node(kind: str, node: Node, path: KeyPath) -> Node:
    """Check the spec of a library's class (:mod:`reidx.registry.library`) against its constructor.

    Defaults stay with the library: they are not written out.
    """
    where = f"{node.origin}: {dotted(path)}"
    node = _with_type(node, kind, where)
    offered = library(kind)
    name = node.value["type"].plain()
    if name not in offered:
        hint = suggest(name, offered) or f"Known: {', '.join(offered)}."
        raise ConfigError(f"{where}: there is no {kind} {excerpt(name)!r}. {hint}")
    known = {k: p for k, p in keywords_of(offered[name]).items() if k not in _ENGINES_OWN}
    for key, child in node.value.items():
        if key == "type":
            continue
        if key not in known:
            if kind == "optimizer" and (new := RENAMED["optimizer"].get(key)):
                raise ConfigError(f"{child.origin}: {dotted((*path, key))} is now {dotted((*path[:-1], *new.split('.')))}.")
            hint = suggest(key, known) or f"It accepts: {', '.join(known)}."
            raise ConfigError(f"{child.origin}: {dotted(path)}: {name} has no setting {key!r}. {hint}")
        place, value, hint = f"{child.origin}: {dotted((*path, key))}", child.plain(), _without_tensors(known[key].hint)
        if (fault := bad_number(value)) is not None:
            raise ConfigError(f"{place} {fault}")
        if not fits(value, hint):
            found = f"{excerpt(repr(value))} ({kind_of(value)})"
            raise ConfigError(f"{place} is {found}; expected {known[key].annotation}.{quoting_advice(value, hint)}")
        if kind == "optimizer" and key in _NOT_NEGATIVE and value is not None and value < 0:
            raise ConfigError(f"{place} is {excerpt(str(value))}; it must be at least 0.")
    for key, setting in known.items():
        if setting.required and key not in node.value:
            raise ConfigError(f"{where}: {name} needs {key!r} ({setting.annotation or 'any value'}).")
    return node


_ENGINES_OWN = ("params", "optimizer", "last_step", "verbose", "save_dir")
"""Arguments of a library's classes that the engine supplies."""


def _without_tensors(hint: Any) -> Any:
    """Remove ``Tensor`` from an annotation of a torch optimiser: a config cannot hold a tensor."""
    parts = typing.get_args(hint)
    plain = tuple(part for part in parts if getattr(part, "__name__", "") != "Tensor")
    return functools.reduce(operator.or_, plain) if plain and len(plain) < len(parts) else hint


_NOT_NEGATIVE = ("lr", "weight_decay", "momentum", "eps")
"""Optimiser settings that must not be negative: checked here because their constructors need torch."""
