"""Inputs that components get by name: a method gets what its arguments name, as a test gets its pytest fixtures."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any

from reidx.contracts.protocols import CALLS

RESERVED = frozenset(name for calls in CALLS.values() for call in calls.values() for name in (*call.positional, *call.named))
"""Names that a column of a data set cannot have."""


def column_inputs(kind: str, columns: Iterable[str]) -> list[str]:
    """Return the names under which a kind gets the columns of a data set."""
    if kind == "matcher":  # its contexts hold the columns of each labelling
        return []
    if camera_inputs(kind) <= {"cameras"}:
        return list(columns)
    return [f"{side}_{name}" for name in columns for side in ("query", "gallery")]


def camera_inputs(kind: str) -> frozenset[str]:
    """Return the names under which the methods of a kind get cameras."""
    calls = CALLS.get(kind, {}).values()
    return frozenset(name for call in calls for name in (*call.positional, *call.named) if name in _CAMERAS)


_CAMERAS = ("cameras", "query_cams", "gallery_cams")


def inputs_of(loss: type) -> tuple[set[str], set[str]]:
    """Return the required and the optional inputs of a loss class, read from its ``forward``."""
    return _names(loss.forward, 1)  # type: ignore[attr-defined]


def inputs_by_method(kind: str, component: type) -> dict[str, tuple[set[str], set[str]]]:
    """Return the required and the optional named inputs of each method in :data:`CALLS` that a class has."""
    found = {}
    for method, call in CALLS.get(kind, {}).items():
        # not getattr: a class without `__call__` has that of its metaclass
        function = next((vars(cls)[method] for cls in component.__mro__ if method in vars(cls)), None)
        if inspect.isfunction(function):
            found[method] = _names(function, 1 + len(call.positional))
    return found


def inputs_of_kind(kind: str, component: type) -> tuple[set[str], set[str]]:
    """Return the required and the optional named inputs of a class, over all its methods in :data:`CALLS`."""
    pairs = inputs_by_method(kind, component).values()
    needed: set[str] = set().union(*(names for names, _ in pairs))
    return needed, set().union(*(names for _, names in pairs)) - needed


def feature_inputs(kind: str, component: type, provided: Iterable[str]) -> frozenset[str]:
    """Return the features that a class gets by name from a fusion that provides the features ``provided``."""
    methods = inputs_by_method(kind, component).items()
    calls = [(CALLS[kind][method], needed | optional) for method, (needed, optional) in methods]
    named = frozenset[str]().union(*(names.difference(call.named) for call, names in calls if call.provider == "fusion"))
    return named.intersection(provided)


def named_inputs(function: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``known`` that ``function`` names among its arguments; None counts as missing."""
    names = argument_names(function)
    return {name: value for name, value in known.items() if name in names and value is not None}


def argument_names(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the arguments that ``function`` can get by name."""
    # those of a method are read once for its class: a memory's are needed in every step
    return _of_method(function.__func__) if isinstance(function, MethodType) else _of(function)


def _of(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(p.name for p in inspect.signature(function).parameters.values() if p.kind in _BY_NAME)


_of_method = functools.cache(_of)

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _names(function: Callable[..., Any], skipped: int) -> tuple[set[str], set[str]]:
    """Names of the arguments after the first ``skipped``: those without a default, and those with one."""
    parameters = list(inspect.signature(function).parameters.values())
    named = [p for p in parameters[skipped:] if p.kind in _BY_NAME]
    needed = {p.name for p in named if p.default is p.empty}
    return needed, {p.name for p in named} - needed
