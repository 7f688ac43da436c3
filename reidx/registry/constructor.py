"""A component's constructor as the schema of its keys: what it names, what fits that, and what would never reach it."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from reidx.errors import excerpt

REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Nested:
    """Says of a constructor's parameter, as ``Annotated[Spec, Nested(kind)]``, that it is the spec of another component.

    In a config that spec is checked as any, with its line and its defaults; the constructor builds it.
    """

    kind: str


@dataclass(frozen=True)
class File:
    """Says of a text parameter that it is the path of a file whose content decides numbers; see :data:`FilePath`."""


FilePath = Annotated[str, File()]
"""The annotation of a constructor's parameter that is the path of a file: weights, a table, a list.

The digest of the file then counts among the provenance of a run: with other content the run is not resumed and shares no
stage.
"""


@dataclass(frozen=True)
class Parameter:
    """One keyword of a component's constructor; ``hint`` is what ``annotation`` (text) stands for, where it
    resolves."""

    name: str
    annotation: str
    default: Any
    hint: Any = Any

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@functools.cache
def parameters_of(component: Any) -> Mapping[str, Parameter]:
    """The keywords that a class or function names, in its order; raises what :func:`inspect.signature` does."""
    signature = inspect.signature(component)
    constructor = component.__init__ if inspect.isclass(component) else component
    names = getattr(inspect.unwrap(constructor), "__globals__", {})
    return {
        p.name: Parameter(p.name, annotation_text(p.annotation), p.default, _resolve(p.annotation, names))
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def is_file(hint: Any) -> bool:
    """Whether an annotation is :data:`FilePath`, or has it inside (``FilePath | None``, ``list[FilePath]``)."""
    return isinstance(hint, File) or any(map(is_file, typing.get_args(hint)))


def place_of(thing: Any) -> str:
    """Where a class (its own constructor), a function or a method is written, as ``file:line``; empty where nobody knows."""
    own = vars(thing).get("__init__") if inspect.isclass(thing) else getattr(thing, "__func__", thing)
    code = getattr(inspect.unwrap(own) if own is not None else None, "__code__", None)
    if code is not None and not code.co_filename.startswith("<"):
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:  # a constructor that is inherited, or that a dataclass made
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return ""


# ---- arguments that nothing would reach


def unusable(kind: str, component: Any, context: Mapping[str, Any]) -> str:
    """Why a component of ``kind`` cannot be built from a config as its constructor is meant; empty if it can.

    ``context`` has examples of what the core supplies, by name. Nothing is said of a class without a readable signature.
    """
    try:
        known = parameters_of(component)
        kinds = {p.kind for p in inspect.signature(component).parameters.values()}
    except (TypeError, ValueError):
        return ""
    fault = hidden(kind, known)
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        fault = fault or "its constructor has an argument before `/`, which no key can set: leave out the `/`"
    for name, examples in context.items():
        if name in known and not any(fits(example, known[name].hint) for example in examples):
            fault = fault or (
                f"the argument {name!r} of its constructor ({known[name].annotation}) cannot take what reidx itself supplies "
                f"under that name ({_described(examples[0])}): rename it, for example to {kind}_{name}"
            )
    return f"{fault} ({place_of(component)})" if fault and place_of(component) else fault


def hidden(kind: str, names: Collection[str]) -> str:
    """Why an argument among ``names`` of a constructor never receives a value; empty if each can."""
    if "type" not in names:
        return ""
    return (
        f"the argument 'type' of its constructor would never receive a value, because that key names the {kind}: rename the "
        f"argument, for example to {kind}_type"
    )


def _described(example: Any) -> str:
    return f"{example!r}, say" if isinstance(example, str | int | float | tuple | dict) else "an object"


# ---- values and annotations


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data ``value`` is what the annotation ``hint`` wants."""
    try:
        fit(value, hint)
    except Misfit:
        return False
    return True


def bad_number(value: Any) -> str | None:
    """What is wrong with a number that is infinite, none at all or wider than 64 bits, or with one inside; else None."""
    if isinstance(value, Mapping):
        return next((fault for fault in map(bad_number, value.values()) if fault), None)
    if isinstance(value, list | tuple):
        return next((fault for fault in map(bad_number, value) if fault), None)
    if isinstance(value, int) and not -_WIDEST <= value < _WIDEST:
        return f"is {excerpt(str(value), 40)}; it must fit into 64 bits."
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {'.nan' if math.isnan(value) else '.inf' if value > 0 else '-.inf'}; it must be a finite number."
    return None


_WIDEST = 2**63


def quoting(value: Any, hint: Any) -> str:
    """The advice to quote a scalar where text is wanted: YAML reads ``012`` as a number and ``true`` as a truth value."""
    if (value is None or isinstance(value, bool | int | float)) and fits("", hint):
        return """ If it is text, put it into quotes: "…", after --set 'KEY="…"'."""
    return ""


class Misfit(Exception):
    """A value is not what its annotation says."""


def fit(value: Any, hint: Any) -> Any:
    """``value`` as the annotation ``hint`` wants it: as it is, but for lists where a tuple is expected.

    A config holds plain data only, so an annotation of another class (or one not understood here) lets all
    pass. Raises :class:`Misfit`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:  # what a nested spec must be is said when that is checked, or built
        return value if any(isinstance(mark, Nested) for mark in arguments[1:]) else fit(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _fit_any(value, arguments)
    if origin is typing.Literal:
        right = any(value == choice and type(value) is type(choice) for choice in arguments)
    elif hint in (None, type(None)):
        right = value is None
    elif hint in (bool, str):
        right = isinstance(value, hint)
    elif hint in (int, float):  # bool is an int to Python, but `epochs: true` is a slip
        right = isinstance(value, int | hint) and not isinstance(value, bool)
    elif (origin or hint) is tuple:
        return _fit_tuple(value, arguments)
    elif (origin or hint) in (list, Sequence, Iterable, Collection):
        return [fit(item, arguments[0] if arguments else Any) for item in _items(value)]
    elif (origin or hint) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise Misfit
        item = arguments[1] if arguments else Any
        return {key: fit(part, item) for key, part in value.items()}
    else:
        right = True
    if not right:
        raise Misfit
    return value


def _fit_any(value: Any, hints: Sequence[Any]) -> Any:
    for hint in hints:
        try:
            return fit(value, hint)
        except Misfit:
            continue
    raise Misfit


def _fit_tuple(value: Any, hints: Sequence[Any]) -> tuple[Any, ...]:
    items = _items(value)
    if not hints:
        return tuple(items)
    if hints[-1] is Ellipsis:
        hints = [hints[0]] * len(items)
    if len(items) != len(hints):
        raise Misfit
    return tuple(fit(item, hint) for item, hint in zip(items, hints, strict=True))


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise Misfit
    return value


def annotation_text(annotation: Any) -> str:
    """An annotation as its source would write it; empty for none."""
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _resolve(annotation: Any, names: Mapping[str, Any]) -> Any:
    """The type an annotation stands for; Any for none, and for names imported for type checking only."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # no new trust: the module it stands in has been run
    except Exception:
        return Any
