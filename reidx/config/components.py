"""The parts in a config: a component's spec, an optimiser's, a schedule's, checked and with their defaults."""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
import typing
from collections.abc import Mapping
from typing import Any

from reidx.config.node import KeyPath, Node, Origin, dotted, kind_of
from reidx.config.renamed import RENAMED
from reidx.errors import ConfigError, excerpt, suggest
from reidx.outline.outline import outline
from reidx.outline.source import classes_in, imported_in
from reidx.registry import build as builder
from reidx.registry.constructor import Parameter, bad_number, fits, parameters_of, quoting
from reidx.registry.registry import KINDS


def need_mapping(node: Node, path: KeyPath) -> None:
    """Raise :class:`ConfigError` unless the value at ``path`` is a mapping."""
    if not isinstance(node.value, dict):
        what = dotted(path) or "the experiment"
        raise ConfigError(f"{node.origin}: {what} is {kind_of(node.plain())}; it must be a mapping of keys.")


def component_node(kind: str, node: Node, path: KeyPath) -> Node:
    """A component's spec with its own defaults."""
    where = f"{node.origin}: {dotted(path)}"
    node = _named(node, kind, where)
    given = {name: child for name, child in node.value.items() if name != "type"}
    name = node.value["type"].plain()
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
            filled[k] = component_node(nested[k], child, (*path, k)) if inner else child
    return Node(filled, node.origin)


def _named(node: Node, kind: str, where: str) -> Node:
    """``node`` as a mapping whose ``type`` names the component; a name alone is short for that."""
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


def called(catalogue: str, node: Node, path: KeyPath) -> Node:
    """The spec of a torch optimiser, an mmengine scheduler or a back-end of the log, its keys checked against the class.

    The defaults of the class are not written out: they are torch's and mmengine's.
    """
    where = f"{node.origin}: {dotted(path)}"
    node = _named(node, catalogue, where)
    offered = _catalogue(catalogue)
    name = node.value["type"].plain()
    if name not in offered:
        hint = suggest(name, offered) or f"Known: {', '.join(offered)}."
        raise ConfigError(f"{where}: there is no {catalogue} {excerpt(name)!r}. {hint}")
    known = {k: p for k, p in _settings(offered[name]).items() if k not in _ENGINES_OWN}
    for key, child in node.value.items():
        if key == "type":
            continue
        if key not in known:
            if catalogue == "optimizer" and (new := RENAMED["optimizer"].get(key)):
                raise ConfigError(f"{child.origin}: {dotted((*path, key))} is now {dotted((*path[:-1], *new.split('.')))}.")
            hint = suggest(key, known) or f"It accepts: {', '.join(known)}."
            raise ConfigError(f"{child.origin}: {dotted(path)}: {name} has no setting {key!r}. {hint}")
        place, value, hint = f"{child.origin}: {dotted((*path, key))}", child.plain(), _without_tensors(known[key].hint)
        if (fault := bad_number(value)) is not None:
            raise ConfigError(f"{place} {fault}")
        if not fits(value, hint):
            found = f"{excerpt(repr(value))} ({kind_of(value)})"
            raise ConfigError(f"{place} is {found}; expected {known[key].annotation}.{quoting(value, hint)}")
        if catalogue == "optimizer" and key in _NOT_NEGATIVE and value is not None and value < 0:
            raise ConfigError(f"{place} is {excerpt(str(value))}; it must be at least 0.")
    for key, setting in known.items():
        if setting.required and key not in node.value:
            raise ConfigError(f"{where}: {name} needs {key!r} ({setting.annotation or 'any value'}).")
    return node


_ENGINES_OWN = ("params", "optimizer", "param_name", "by_epoch", "last_step", "verbose", "save_dir")
"""Arguments of optimisers, schedulers and back-ends that are the engine's to give."""


def _without_tensors(hint: Any) -> Any:
    """An annotation less the tensors that torch's optimisers allow beside numbers: a config cannot hold one."""
    parts = typing.get_args(hint)
    plain = tuple(part for part in parts if getattr(part, "__name__", "") != "Tensor")
    return functools.reduce(operator.or_, plain) if plain and len(plain) < len(parts) else hint


_NOT_NEGATIVE = ("lr", "weight_decay", "momentum", "eps")
"""Settings of optimisers that are refused below 0 here, as their constructors, which take torch, would do."""


_UNFIT = ("LBFGS", "SparseAdam")
"""Optimisers that a step cannot serve: the one computes the loss by itself, the other wants sparse gradients."""


def _settings(target: str) -> Mapping[str, Parameter]:
    """The keywords of ``"module:Class"``; where its constructor hands on ``*args``, those of the class it hands them to."""
    module, _, name = target.partition(":")
    cls: Any = outline(target) or getattr(importlib.import_module(module), name)
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        if init is not None and not any(
            p.kind is p.VAR_POSITIONAL for p in inspect.signature(init).parameters.values()
        ):
            return parameters_of(base)
    return parameters_of(cls)


def _catalogue(name: str) -> dict[str, str]:
    """The classes of a catalogue by name, as ``"module:Class"``: read from the source, as importing them takes torch."""
    if name == "log back-end":
        classes = {"tensorboard": "TensorboardVisBackend", "wandb": "WandbVisBackend", "mlflow": "MLflowVisBackend"}
        return {short: f"mmengine.visualization.vis_backend:{cls}" for short, cls in classes.items()}
    if name == "optimizer":
        offered = imported_in("torch.optim")
        return {cls: target for cls, target in offered.items() if cls[0].isupper() and cls not in ("Optimizer", *_UNFIT)}
    module = "mmengine.optim.scheduler.lr_scheduler"
    return {cls: f"{module}:{cls}" for cls in classes_in(module) if cls.endswith("LR")}
