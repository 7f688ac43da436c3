"""Construction of components from specs (``"Name"`` or ``{"type": "Name", key: value, …}``).

The constructor's signature is the schema of the spec: other keys are errors, so that no run trains with a misspelt key.
The experiment supplies some keywords itself (``in_channels``, …) as *context*: they are passed if the constructor has
them, and a spec may not set them.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Collection, Mapping
from typing import Any

from reidx.contracts import HONOURED, Contract, contract_of, declaration_fault, declared_by, record_contract
from reidx.errors import ConfigError, PluginError, ReidxError, excerpt, suggest
from reidx.registry import seam
from reidx.registry.constructor import (
    REQUIRED,
    Nested,
    Parameter,
    bad_number,
    fit,
    fits,
    parameters_of,
    quoting_advice,
)
from reidx.registry.describing import one_line
from reidx.registry.discovery import registry
from reidx.registry.library import keywords_of
from reidx.registry.registry import KINDS, Entry

Spec = str | Mapping[str, Any]


def build(kind: str, spec: Spec, *, where: str = "", **context: Any) -> Any:
    """Build the component of ``kind`` that ``spec`` describes; ``where`` is its place in the config, for messages.

    Raises :class:`ConfigError` if the type is unknown, a key is unknown, missing or supplied by the context, a value has
    the wrong type, or the constructor rejects a value with :class:`ValueError`; one message lists all faults of the keys.
    Other errors of reidx keep their class.
    """
    entry, given = _check_spec(kind, spec, context, where)
    known = signature_of(entry)
    arguments = {key: fit(value, known[key].hint) for key, value in given.items()}
    arguments.update({key: value for key, value in context.items() if key in known})
    construct = functools.partial(_construct, _label(kind, entry.name, where), entry.from_library, entry.load())
    component = seam.record_built(entry, seam.call_attributed(entry, "its constructor", construct, **arguments))
    if HONOURED[kind]:
        settings = _with_defaults(entry, given, {*context, *KINDS[kind].context})
        made = _resolved_contract(entry, entry.load(), settings)
        seam.call_attributed(entry, "its contract", record_contract, component, made)
    return component


def _construct(label: str, of_library: bool, component: Any, /, **arguments: Any) -> Any:
    refusals = (AssertionError, TypeError) if of_library else ()  # a library refuses values in these ways, too
    try:
        return component(**arguments)
    except (ValueError, OverflowError, ReidxError, *refusals) as error:
        category = type(error) if isinstance(error, ReidxError) else ConfigError
        refused = category(f"{label}: {error if isinstance(error, ReidxError) else one_line(error)}")
        vars(refused).update(vars(error))  # its notes
        raise refused from error


def entry_of(kind: str, spec: Mapping[str, Any]) -> Entry:
    """Return the registered component that a resolved spec names."""
    return registry().find(kind, spec["type"])


def contract(kind: str, spec: Mapping[str, Any]) -> Contract:
    """Return the contract of the component in a resolved spec, under its settings.

    Raises :class:`PluginError` if a declaration of the component has no effect.
    """
    settings = dict(spec)
    entry = registry().find(kind, settings.pop("type"))
    return _resolved_contract(entry, entry.class_or_outline(), settings)


def _resolved_contract(entry: Entry, component: type, settings: Mapping[str, Any]) -> Contract:
    made: Contract = seam.call_attributed(entry, "its contract", functools.partial(contract_of, component), settings)
    if fault := declaration_fault(entry.kind, component, declared_by(made)):
        raise PluginError(f"{entry.kind} {entry.name} (from {entry.distribution}, {entry.component.target}): {fault}.")
    return made


def fill_defaults(
    kind: str,
    spec: Spec,
    context_keys: Collection[str] = (),
    *,
    where: str = "",
    places: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write out the constructor's defaults in a spec: a dict in the constructor's order, ``type`` first.

    Checks as :func:`build` does, without building. Keys of the context and defaults that are not plain data (a config
    cannot hold them) are left out. ``places`` gives, for messages, the origin of keys that are not at ``where``.
    """
    entry, given = _check_spec(kind, spec, context_keys, where, places)
    return {"type": entry.name, **_with_defaults(entry, given, context_keys)}


def _with_defaults(entry: Entry, given: Mapping[str, Any], context_keys: Collection[str]) -> dict[str, Any]:
    """Return the keywords of a spec with the constructor's defaults, see :func:`fill_defaults`."""
    filled: dict[str, Any] = {}
    for name, parameter in signature_of(entry).items():
        if name in given:
            filled[name] = given[name]
        elif name not in context_keys and _is_plain(parameter.default):
            filled[name] = _plain(parameter.default)
    return filled


def signature_of(entry: Entry) -> Mapping[str, Parameter]:
    """Return the keywords of the entry's constructor, in order, without ``**kwargs``.

    Raises :class:`PluginError` if the class cannot be loaded or has no readable signature.
    """
    try:
        return keywords_of(entry.component.target) if entry.from_library else parameters_of(entry.class_or_outline())
    except (TypeError, ValueError) as error:
        target = entry.component.target
        raise PluginError(f"{entry.kind} {entry.name} ({target}) has no signature: {error}.") from error


def nested_in(kind: str, name: str) -> dict[str, str]:
    """Return the keys of a component that hold another component's spec (:class:`Nested`), with its kind."""
    marked = {
        key: [mark for mark in typing.get_args(parameter.hint)[1:] if isinstance(mark, Nested)]
        for key, parameter in signature_of(registry().find(kind, name)).items()
        if typing.get_origin(parameter.hint) is typing.Annotated
    }
    return {key: marks[0].kind for key, marks in marked.items() if marks}


def _check_spec(
    kind: str,
    spec: Spec,
    context: Collection[str],
    where: str,
    places: Mapping[str, str] | None = None,
) -> tuple[Entry, dict[str, Any]]:
    """Return the entry and the keywords of a spec; raises ConfigError with all faults in them."""
    name, given = _split(kind, spec, where)
    try:
        entry = registry().find(kind, name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None
    known = signature_of(entry)
    accepted = [key for key in known if key not in context]
    faults = []
    for key, value in given.items():
        at = f" ({places[key]})" if places and key in places else ""
        if key not in known:
            offered = f"It accepts: {', '.join(accepted) or 'no keys'}."
            faults.append(" ".join(filter(None, (f"unknown key {key!r}{at}.", suggest(key, accepted), offered))))
        elif key in context:
            faults.append(f"{key!r}{at} is supplied by the experiment itself; remove it.")
        else:
            parameter = known[key]
            if (fault := bad_number(value)) is not None and bad_number(parameter.default) is None:
                faults.append(f"{key!r}{at} {fault}")
            elif not fits(value, parameter.hint):
                found = f"{excerpt(repr(value))} ({type(value).__name__})"
                advice = quoting_advice(value, parameter.hint)
                faults.append(f"{key!r}{at} is {found}; expected {parameter.annotation}.{advice}")
    for key, parameter in known.items():
        if parameter.default is REQUIRED and key not in given and key not in context:
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
