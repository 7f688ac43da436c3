"""Specs of components, optimisers, schedulers and log back-ends in a config: key checks and defaults."""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
import typing
from collections.abc import Collection, Mapping
from typing import Any

from reidx.config.node import KeyPath, Node, Origin, dotted, kind_of
from reidx.config.renamed import RENAMED
from reidx.errors import ConfigError, ReidxError, excerpt, suggest
from reidx.outline.outline import outline
from reidx.outline.source import classes_in, imported_in
from reidx.registry import build as builder
from reidx.registry.constructor import Parameter, bad_number, fits, parameters_of, quoting_advice
from reidx.registry.registry import KINDS


def need_mapping(node: Node, path: KeyPath) -> None:
    """Raise :class:`ConfigError` unless the value at ``path`` is a mapping."""
    if not isinstance(node.value, dict):
        what = dotted(path) or "the experiment"
        raise ConfigError(f"{node.origin}: {what} is {kind_of(node.plain())}; it must be a mapping of keys.")


def component_node(kind: str, node: Node, path: KeyPath) -> Node:
    """Fill a component's spec with the defaults of its constructor."""
    where = f"{node.origin}: {dotted(path)}"
    node = _with_type(node, kind, where)
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


def library_component_node(catalogue: str, node: Node, path: KeyPath) -> Node:
    """Check the spec of a torch optimiser, an mmengine scheduler or a log back-end against its class.

    Defaults stay with torch and mmengine: they are not written out.
    """
    where = f"{node.origin}: {dotted(path)}"
    node = _with_type(node, catalogue, where)
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
            raise ConfigError(f"{place} is {found}; expected {known[key].annotation}.{quoting_advice(value, hint)}")
        if catalogue == "optimizer" and key in _NOT_NEGATIVE and value is not None and value < 0:
            raise ConfigError(f"{place} is {excerpt(str(value))}; it must be at least 0.")
    for key, setting in known.items():
        if setting.required and key not in node.value:
            raise ConfigError(f"{where}: {name} needs {key!r} ({setting.annotation or 'any value'}).")
    return node


_ENGINES_OWN = ("params", "optimizer", "param_name", "by_epoch", "last_step", "verbose", "save_dir")
"""Arguments of optimisers, schedulers and back-ends that the engine supplies."""


def _without_tensors(hint: Any) -> Any:
    """Remove ``Tensor`` from an annotation of a torch optimiser: a config cannot hold a tensor."""
    parts = typing.get_args(hint)
    plain = tuple(part for part in parts if getattr(part, "__name__", "") != "Tensor")
    return functools.reduce(operator.or_, plain) if plain and len(plain) < len(parts) else hint


_NOT_NEGATIVE = ("lr", "weight_decay", "momentum", "eps")
"""Optimiser settings that must not be negative: checked here because their constructors need torch."""


_UNFIT = ("LBFGS", "SparseAdam")
"""Optimisers that the training loop cannot run: LBFGS evaluates the loss itself, SparseAdam needs sparse gradients."""


def _settings(target: str) -> Mapping[str, Parameter]:
    """Return the keywords of ``"module:Class"``; a constructor that passes ``*args`` on has those of its base class."""
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
    """Return the classes of a catalogue by name, as ``"module:Class"``; reads the source, since an import loads torch."""
    if name == "log back-end":
        classes = {"tensorboard": "TensorboardVisBackend", "wandb": "WandbVisBackend", "mlflow": "MLflowVisBackend"}
        return {short: f"mmengine.visualization.vis_backend:{cls}" for short, cls in classes.items()}
    if name == "optimizer":
        offered = imported_in("torch.optim")
        return {cls: target for cls, target in offered.items() if cls[0].isupper() and cls not in ("Optimizer", *_UNFIT)}
    module = "mmengine.optim.scheduler.lr_scheduler"
    return {cls: f"{module}:{cls}" for cls in classes_in(module) if cls.endswith("LR")}
