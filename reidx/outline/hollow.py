"""Classes of which the signatures are there and the code is not: what stands for them, and what may be asked of them.

An outline (:mod:`reidx.outline.outline`) has methods that do nothing. Whoever calls one, or makes an instance of such
a class, gets nothing in place of an answer, so an expression that may do so has no value here.
"""

from __future__ import annotations

import ast
import enum
import sys
from collections.abc import Collection, Mapping
from typing import Any

from reidx.outline.syntax import Function, asked_names, last_name

LOOK_AROUND = ("globals", "locals", "vars", "eval", "exec", "dir", "getattr", "setattr", "__import__")
"""Functions that find by other ways what an expression does not name."""

_STUBS = "__outlined__"  # the attribute of an outline that names the methods which do nothing
_ASKED = "__asked__"  # that which names the attributes its contract asks for


class OpenError(Exception):
    """The source alone does not say what a name stands for."""


class Network:
    """What :class:`torch.nn.Module` is to an outline."""

    __module__ = "torch.nn.modules.module"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _forward_unimplemented(self, *input: Any) -> None:
        pass

    forward = _forward_unimplemented
    forward.__module__ = "torch.nn.modules.module"
    forward.__qualname__ = "_forward_unimplemented"


class Foreign(type):
    """What stands for a class of a package that is not imported: an annotation by it lets every value pass."""

    def __getattr__(cls, name: str) -> Foreign:
        if name.startswith("__"):
            raise AttributeError(name)
        return Foreign(name, (), {})


def hollow(cls: type, node: ast.ClassDef, stubs: Collection[str]) -> None:
    """Note of an outlined class which of its methods do nothing; raises :class:`OpenError` where its contract, or one that it
    inherits, asks such a method."""
    setattr(cls, _STUBS, frozenset(stubs))
    setattr(cls, _ASKED, _asked_by_contract(node))
    for used in frozenset[str]().union(*(vars(base).get(_ASKED, ()) for base in cls.__mro__)):
        owner = next((base for base in cls.__mro__ if used in vars(base)), None)
        if owner is not None and used in vars(owner).get(_STUBS, ()):
            raise OpenError(used)


def check_use(node: ast.AST, known: Mapping[str, Any], signed: Collection[str]) -> None:
    """Raise :class:`OpenError` where ``node`` may do more with a hollow class than to read what it has.

    ``known``: the values of the names in ``node``; ``signed``: the methods whose signatures are there.
    """
    if set(LOOK_AROUND).intersection(known) or (known.get("sys") is sys and "modules" in asked_names(node)):
        raise OpenError(ast.unparse(node))
    classes = {name: stubs for name, value in known.items() if (stubs := _stubs_of(value)) is not None}
    if not classes:
        return
    stubs = frozenset[str]().union(*classes.values()).difference(signed)
    if _alone(node, classes) or stubs.intersection(asked_names(node)):
        raise OpenError(ast.unparse(node))


def _alone(node: ast.AST, names: Collection[str]) -> bool:
    """Whether ``node`` does anything with one of these names but to read an attribute of it."""
    uses = {id(part) for part in ast.walk(node) if isinstance(part, ast.Name) and part.id in names}
    return bool(uses - {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Attribute)})


def _stubs_of(value: Any) -> frozenset[str] | None:
    """The methods of an outlined class that do nothing; None of anything else, and of a class that has none."""
    if not isinstance(value, type):
        return None
    stubs = frozenset[str]().union(*(vars(base).get(_STUBS, ()) for base in value.__mro__))
    if stubs and issubclass(value, enum.Enum):  # whose instances are attributes
        raise OpenError(value.__name__)
    return stubs if stubs or issubclass(value, Network) else None


def _asked_by_contract(node: ast.ClassDef) -> frozenset[str]:
    """The attributes that the contract of a class asks for; raises :class:`OpenError` where it asks by other ways."""
    contract = next((s for s in node.body if isinstance(s, Function) and s.name == "contract"), None)
    if contract is None:
        return frozenset()
    asked = asked_names(contract)
    if any(name.startswith("__") and name.endswith("__") and name != "__name__" for name in asked):
        raise OpenError(node.name)
    if any(last_name(mark) == "classmethod" for mark in contract.decorator_list) and contract.args.args:
        own = contract.args.args[0].arg
        if _alone(contract, {own}):
            raise OpenError(own)
    return asked
