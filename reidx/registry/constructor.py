"""Constructor signatures as schemas: keywords, type checks of values, and arguments that a config cannot set."""

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
"""Marker for a parameter without a default."""


@dataclass(frozen=True)
class Nested:
    """Annotation of a constructor's parameter that is the spec of another component: ``Annotated[Spec, Nested(kind)]``.

    With ``list[Spec]`` it is a list of specs. A nested spec in a config is checked like any other, with lines and defaults; the
    constructor builds it.
    """

    kind: str


@dataclass(frozen=True)
class File:
    """Annotation of a text parameter that is the path of a file whose content affects results; see :data:`FilePath`."""


FilePath = Annotated[str, File()]
"""Annotation of a constructor's parameter that is the path of a file: weights, a table, a list.

The digest of the file becomes part of a run's provenance: if the content changes, the run is not resumed and shares no
stage.
"""


@dataclass(frozen=True)
class Parameter:
    """One keyword of a component's constructor; ``hint`` is the type of ``annotation`` (text), if it resolves."""

    name: str
    annotation: str
    default: Any
    hint: Any = Any

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@functools.cache
def parameters_of(component: Any) -> Mapping[str, Parameter]:
    """Return the keywords of a class or function, in order; raises the errors of :func:`inspect.signature`."""
    signature = inspect.signature(component)
    constructor = component.__init__ if inspect.isclass(component) else component
    names = getattr(inspect.unwrap(constructor), "__globals__", {})
    return {
        p.name: Parameter(p.name, annotation_text(p.annotation), p.default, _resolve(p.annotation, names))
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def is_file(hint: Any) -> bool:
    """Return True if an annotation is or contains :data:`FilePath` (``FilePath | None``, ``list[FilePath]``)."""
    return isinstance(hint, File) or any(map(is_file, typing.get_args(hint)))


def place_of(thing: Any) -> str:
    """Return ``file:line`` of a function, a method or a class's own constructor; empty if unknown."""
    own = vars(thing).get("__init__") if inspect.isclass(thing) else getattr(thing, "__func__", thing)
    code = getattr(inspect.unwrap(own) if own is not None else None, "__code__", None)
    if code is not None and not code.co_filename.startswith("<"):
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:  # an inherited constructor, or one generated for a dataclass
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return ""


# ---- arguments that a config cannot set


def constructor_fault(kind: str, component: Any, context: Mapping[str, Any]) -> str:
    """Explain why a config cannot set all arguments of a component's constructor; empty if it can.

    ``context`` has examples of the values that the core supplies, by name. A class without a readable signature passes.
    """
    try:
        known = parameters_of(component)
        kinds = {p.kind for p in inspect.signature(component).parameters.values()}
    except (TypeError, ValueError):
        return ""
    fault = unreachable_argument(kind, known)
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        fault = fault or "its constructor has an argument before `/`, which no key can set: leave out the `/`"
    for name, examples in context.items():
        if name in known and not any(fits(example, known[name].hint) for example in examples):
            fault = fault or (
                f"the argument {name!r} of its constructor ({known[name].annotation}) cannot take what reidx itself supplies "
                f"under that name ({_described(examples[0])}): rename it, for example to {kind}_{name}"
            )
    return f"{fault} ({place_of(component)})" if fault and place_of(component) else fault


def unreachable_argument(kind: str, names: Collection[str]) -> str:
    """Explain why an argument among ``names`` of a constructor never receives a value; empty if each can."""
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
    """Return True if plain data ``value`` matches the annotation ``hint``."""
    try:
        fit(value, hint)
    except Misfit:
        return False
    return True


def bad_number(value: Any) -> str | None:
    """Describe the fault of an infinite, NaN or over-64-bit number in ``value``; None if there is none."""
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


def quoting_advice(value: Any, hint: Any) -> str:
    """Advise to quote a scalar where text is expected: YAML reads ``012`` as a number and ``true`` as a boolean."""
    if (value is None or isinstance(value, bool | int | float)) and fits("", hint):
        return """ If it is text, put it into quotes: "…", after --set 'KEY="…"'."""
    return ""


class Misfit(Exception):
    """A value does not match its annotation."""


def fit(value: Any, hint: Any) -> Any:
    """Return ``value`` in the type of the annotation ``hint``: unchanged, except that lists become tuples if expected.

    A config holds plain data only, so annotations of other classes (or unsupported ones) accept every value. Raises
    :class:`Misfit`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        if not any(isinstance(mark, Nested) for mark in arguments[1:]):
            return fit(value, arguments[0])
        if isinstance(value, list | tuple) != (typing.get_origin(arguments[0]) is list):
            raise Misfit
        return value  # nested specs are checked separately
    if origin in (typing.Union, types.UnionType):
        return _fit_any(value, arguments)
    if origin is typing.Literal:
        right = any(value == choice and type(value) is type(choice) for choice in arguments)
    elif hint in (None, type(None)):
        right = value is None
    elif hint in (bool, str):
        right = isinstance(value, hint)
    elif hint in (int, float):  # bool is an int to Python, but `epochs: true` is a mistake
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
    """Format an annotation as in source code; empty for none."""
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _resolve(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Return the type of an annotation; Any for none, and for names imported only for type checking."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # no new trust: its module has already been run
    except Exception:
        return Any
