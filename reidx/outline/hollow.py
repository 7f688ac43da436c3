"""Placeholder classes with signatures but no code, and checks of their use.

An outline (:mod:`reidx.outline.outline`) has methods that do nothing. A call of such a method, or an instance of such a
class, gives a wrong result, so expressions that may contain one are not evaluated.
"""

from __future__ import annotations

import ast
import enum
import sys
from collections.abc import Collection, Mapping
from typing import Any

from reidx.outline.syntax import Function, attribute_names, last_name

LOOK_AROUND = ("globals", "locals", "vars", "eval", "exec", "dir", "getattr", "setattr", "__import__")
"""Functions that access names which an expression does not mention."""

_STUBS = "__outlined__"  # attribute of an outline: names of its empty methods
_ASKED = "__asked__"  # attribute of an outline: names of the attributes that its contract reads


class OpenError(Exception):
    """The source alone does not determine the value of a name."""


class Network:
    """Placeholder for :class:`torch.nn.Module` in outlines."""

    __module__ = "torch.nn.modules.module"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _forward_unimplemented(self, *input: Any) -> None:
        pass

    forward = _forward_unimplemented
    forward.__module__ = "torch.nn.modules.module"
    forward.__qualname__ = "_forward_unimplemented"


class Foreign(type):
    """Placeholder for a class of a package that is not imported; as an annotation it accepts every value."""

    def __getattr__(cls, name: str) -> Foreign:
        if name.startswith("__"):
            raise AttributeError(name)
        return Foreign(name, (), {})


def hollow(cls: type, node: ast.ClassDef, stubs: Collection[str]) -> None:
    """Record the empty methods of an outlined class.

    Raises :class:`OpenError` if its contract, or an inherited one, uses such a method.
    """
    setattr(cls, _STUBS, frozenset(stubs))
    setattr(cls, _ASKED, _read_by_contract(node))
    for used in frozenset[str]().union(*(vars(base).get(_ASKED, ()) for base in cls.__mro__)):
        owner = next((base for base in cls.__mro__ if used in vars(base)), None)
        if owner is not None and used in vars(owner).get(_STUBS, ()):
            raise OpenError(used)


def check_use(node: ast.AST, known: Mapping[str, Any], signed: Collection[str]) -> None:
    """Raise :class:`OpenError` if ``node`` may do more with a placeholder class than read its attributes.

    ``known``: values of the names in ``node``; ``signed``: methods whose signatures are known.
    """
    if set(LOOK_AROUND).intersection(known) or (known.get("sys") is sys and "modules" in attribute_names(node)):
        raise OpenError(ast.unparse(node))
    classes = {name: stubs for name, value in known.items() if (stubs := _stubs_of(value)) is not None}
    if not classes:
        return
    stubs = frozenset[str]().union(*classes.values()).difference(signed)
    if _alone(node, classes) or stubs.intersection(attribute_names(node)):
        raise OpenError(ast.unparse(node))


def _alone(node: ast.AST, names: Collection[str]) -> bool:
    """Return True if ``node`` uses one of these names other than by reading an attribute."""
    uses = {id(part) for part in ast.walk(node) if isinstance(part, ast.Name) and part.id in names}
    return bool(uses - {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Attribute)})


def _stubs_of(value: Any) -> frozenset[str] | None:
    """Return the empty methods of an outlined class; None for any other value, and for a class without empty methods."""
    if not isinstance(value, type):
        return None
    stubs = frozenset[str]().union(*(vars(base).get(_STUBS, ()) for base in value.__mro__))
    if stubs and issubclass(value, enum.Enum):  # its instances are attributes
        raise OpenError(value.__name__)
    return stubs if stubs or issubclass(value, Network) else None


def _read_by_contract(node: ast.ClassDef) -> frozenset[str]:
    """Return the attributes that the contract of a class reads; raises :class:`OpenError` for indirect access."""
    contract = next((s for s in node.body if isinstance(s, Function) and s.name == "contract"), None)
    if contract is None:
        return frozenset()
    asked = attribute_names(contract)
    if any(name.startswith("__") and name.endswith("__") and name != "__name__" for name in asked):
        raise OpenError(node.name)
    if any(last_name(mark) == "classmethod" for mark in contract.decorator_list) and contract.args.args:
        own = contract.args.args[0].arg
        if _alone(contract, {own}):
            raise OpenError(own)
    return asked
