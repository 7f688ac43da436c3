"""From a spec (``"Name"`` or ``{"type": "Name", key: value, …}``) to the component it describes.

The constructor's signature is the component's schema: a spec may set its keywords and nothing else, so that
no misspelt key ever trains. Keywords that the experiment supplies itself (``in_channels``, …) come as
*context*: they are passed where the constructor asks for them, and a spec may not set them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reidx.contracts import Contract, contract_of
from reidx.errors import ConfigError, PluginError, ReidxError
from reidx.plugins import registry
from reidx.registry import Entry

REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""

Spec = str | Mapping[str, Any]


@dataclass(frozen=True)
class Nested:
    """Says of a constructor's parameter, as ``Annotated[Spec, Nested(kind)]``, that it is the spec of another component.

    In a config that spec is checked as any, with its line and its defaults; the constructor builds it.
    """

    kind: str


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


def build(kind: str, spec: Spec, *, where: str = "", **context: Any) -> Any:
    """The component of ``kind`` that ``spec`` describes; ``where`` is the place in the config that messages
    name.

    Raises :class:`ConfigError` when the type is unknown, a key is unknown, missing or supplied by the
    context, a value is of the wrong type, or the constructor refuses a value with :class:`ValueError`; all
    faults of the keys at once. Other errors of reidx keep their class.
    """
    entry, given = _checked(kind, spec, context, where)
    known = signature_of(entry)
    arguments = {key: _fit(value, known[key].hint) for key, value in given.items()}
    arguments.update({key: value for key, value in context.items() if key in known})
    component = entry.load()
    try:
        return component(**arguments)
    except (ValueError, ReidxError) as error:
        kept = type(error) if isinstance(error, ReidxError) else ConfigError
        raise kept(f"{_label(kind, entry.name, where)}: {error}") from error


def contract(kind: str, spec: Mapping[str, Any]) -> Contract:
    """The contract of the component that a resolved spec names, for the settings in it."""
    settings = dict(spec)
    return contract_of(registry().find(kind, settings.pop("type")).load(), settings)


def fill_defaults(
    kind: str,
    spec: Spec,
    context_keys: Collection[str] = (),
    *,
    where: str = "",
    places: Mapping[str, str] | None = None,
    beside: Collection[str] = (),
) -> dict[str, Any]:
    """The spec as a dict with the constructor's defaults written out, in the constructor's order, ``type``
    first.

    Checked as by :func:`build`, without building. Left out are keys of the context, and defaults that are not
    plain data (a config could not hold them). For the messages: ``places`` says where a key stands when that is not
    ``where``, ``beside`` are keys that the spec's reader takes out of it before.
    """
    entry, given = _checked(kind, spec, context_keys, where, places, beside)
    filled: dict[str, Any] = {"type": entry.name}
    for name, parameter in signature_of(entry).items():
        if name in given:
            filled[name] = given[name]
        elif name not in context_keys and _is_plain(parameter.default):
            filled[name] = _plain(parameter.default)
    return filled


def signature_of(entry: Entry) -> Mapping[str, Parameter]:
    """The keywords that the entry's constructor names, in its order; ``**kwargs`` count for nothing.

    Raises :class:`PluginError` when the class cannot be loaded or has no readable signature.
    """
    try:
        return parameters_of(entry.load())
    except (TypeError, ValueError) as error:
        target = entry.component.target
        raise PluginError(f"{entry.kind} {entry.name} ({target}) has no signature: {error}.") from error


def nested_in(kind: str, name: str) -> dict[str, str]:
    """The keys of a component that hold another's spec (:class:`Nested`), each with the kind of that."""
    marked = {
        key: [mark for mark in typing.get_args(parameter.hint)[1:] if isinstance(mark, Nested)]
        for key, parameter in signature_of(registry().find(kind, name)).items()
        if typing.get_origin(parameter.hint) is typing.Annotated
    }
    return {key: marks[0].kind for key, marks in marked.items() if marks}


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


def _checked(
    kind: str,
    spec: Spec,
    context: Collection[str],
    where: str,
    places: Mapping[str, str] | None = None,
    beside: Collection[str] = (),
) -> tuple[Entry, dict[str, Any]]:
    """The entry a spec names and the keywords it sets, or a ConfigError with all that is wrong with them."""
    name, given = _split(kind, spec, where)
    try:
        entry = registry().find(kind, name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None
    known = signature_of(entry)
    accepted = [*(key for key in known if key not in context), *beside]
    faults = []
    for key, value in given.items():
        at = f" ({places[key]})" if places and key in places else ""
        if key not in known:
            close = difflib.get_close_matches(key, accepted, n=1)
            hint = f"did you mean {close[0]!r}? It" if close else "it"
            faults.append(f"unknown key {key!r}{at}; {hint} accepts: {', '.join(accepted) or 'no keys'}.")
        elif key in context:
            faults.append(f"{key!r}{at} is supplied by the experiment itself; remove it.")
        else:
            try:
                _fit(value, known[key].hint)
            except _Misfit:
                found = f"{value!r} ({type(value).__name__})"
                faults.append(f"{key!r}{at} is {found}; expected {known[key].annotation}.")
    for key, parameter in known.items():
        if parameter.required and key not in given and key not in context:
            faults.append(f"{key!r} ({parameter.annotation or 'any value'}) is missing.")
    if faults:
        message = faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} faults", *faults])
        raise ConfigError(f"{_label(kind, name, where)}: {message}")
    return entry, given


def _split(kind: str, spec: Spec, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("type"), str):
        return spec["type"], {str(key): value for key, value in spec.items() if key != "type"}
    known = ", ".join(entry.name for entry in registry().entries(kind))
    raise ConfigError(
        f"{f'{where}: ' if where else ''}a {kind} is written as a name or as {{type: name, …}}, "
        f"not as {spec!r}. Known: {known or 'none'}."
    )


def _label(kind: str, name: str, where: str) -> str:
    return f"{kind} {name} ({where})" if where else f"{kind} {name}"


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data ``value`` is what the annotation ``hint`` wants."""
    try:
        _fit(value, hint)
    except _Misfit:
        return False
    return True


class _Misfit(Exception):
    """A value is not what its annotation says."""


def _fit(value: Any, hint: Any) -> Any:
    """``value`` as the annotation ``hint`` wants it: as it is, but for lists where a tuple is expected.

    A config holds plain data only, so an annotation of another class (or one not understood here) lets all
    pass.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:  # what a nested spec must be is said when that is checked, or built
        return value if any(isinstance(mark, Nested) for mark in arguments[1:]) else _fit(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _fit_any(value, arguments)
    if origin is typing.Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in arguments)
    elif hint in (None, type(None)):
        fits = value is None
    elif hint in (bool, str):
        fits = isinstance(value, hint)
    elif hint in (int, float):  # bool is an int to Python, but `epochs: true` is a slip
        fits = isinstance(value, int | hint) and not isinstance(value, bool)
    elif (origin or hint) is tuple:
        return _fit_tuple(value, arguments)
    elif (origin or hint) in (list, Sequence, Iterable, Collection):
        return [_fit(item, arguments[0] if arguments else Any) for item in _items(value)]
    elif (origin or hint) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _Misfit
        item = arguments[1] if arguments else Any
        return {key: _fit(part, item) for key, part in value.items()}
    else:
        fits = True
    if not fits:
        raise _Misfit
    return value


def _fit_any(value: Any, hints: Sequence[Any]) -> Any:
    for hint in hints:
        try:
            return _fit(value, hint)
        except _Misfit:
            continue
    raise _Misfit


def _fit_tuple(value: Any, hints: Sequence[Any]) -> tuple[Any, ...]:
    items = _items(value)
    if not hints:
        return tuple(items)
    if hints[-1] is Ellipsis:
        hints = [hints[0]] * len(items)
    if len(items) != len(hints):
        raise _Misfit
    return tuple(_fit(item, hint) for item, hint in zip(items, hints, strict=True))


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _Misfit
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


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    return value is None or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return value
