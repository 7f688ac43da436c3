"""Declarations that each kind of component honours. A declaration without effect is refused, as it is a mistake."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from reidx.contracts.declarations import Contract
from reidx.contracts.inputs import camera_inputs, inputs_of_kind
from reidx.contracts.protocols import CALLS, HONOURED, OUTLIERS_OF

_PARTS = {"memory": {"features"}, "loss": {"features", "scores", "teacher", "teacher_scores"}}
"""Inputs that may be part features, by kind."""


def declared_by(component: type | Contract) -> dict[str, Any]:
    """Return the declarations of a class, by its attributes, or of a contract that differ from the defaults."""
    found = {}
    for name, field in Contract.__dataclass_fields__.items():
        value = getattr(component, name, field.default)
        kind = (set, frozenset, tuple, list) if isinstance(field.default, frozenset) else type(field.default)
        if isinstance(value, kind) and (bool(value) if isinstance(field.default, frozenset) else value != field.default):
            found[name] = value
    return found


def declaration_fault(kind: str, component: type, declared: Mapping[str, Any]) -> str:
    """Explain why one of the declarations of a class has no effect; empty if each has one."""
    for name, value in declared.items():
        if name not in HONOURED[kind]:
            others = ", ".join(HONOURED[kind]) or "nothing"
            return f"it declares {_shown(name, value)}, which the kind {kind} does not read: remove it (it reads {others})"
    outliers = declared.get("outliers")
    if outliers is not None and outliers not in OUTLIERS_OF[kind]:
        return f"it declares outliers: {outliers}; for the kind {kind} it is {' or '.join(OUTLIERS_OF[kind])}"
    if "cameras" in declared and (missing := _without_cameras(kind, component)):
        return f"it declares cameras: {declared['cameras']}, but its {missing}: add it, or remove the declaration"
    for name in ("accepts_parts", "requires_parts"):
        taken = _PARTS.get(kind, set())
        if kind == "loss":
            taken = taken & set[str]().union(*inputs_of_kind(kind, component))
        if wrong := sorted(set(declared.get(name, ())) - taken):
            return (
                f"it declares {_shown(name, wrong)}, but has no such input (those that can have parts: "
                f"{', '.join(sorted(taken)) or 'none'})"
            )
    if wrong := sorted(set(declared.get("part_features", ())).difference(declared.get("provides", ()))):
        return f"it declares {_shown('part_features', wrong)}, which its provides does not name: add them to provides"
    return ""


def _without_cameras(kind: str, component: type) -> str:
    """Name the methods of a component that would get cameras, and the argument, if none has it; empty if one has."""
    if kind == "refiner":
        return ""  # it may read them from its context
    named = camera_inputs(kind) & {name for call in CALLS.get(kind, {}).values() for name in call.named}
    if named:
        inputs = set[str]().union(*inputs_of_kind(kind, component))
        return "" if named & inputs else f"{' or '.join(CALLS[kind])} has no argument {' or '.join(sorted(named))}"
    if kind == "sampler":
        return "" if "cameras" in inspect.signature(component).parameters else "constructor has no argument cameras"
    return ""  # a protocol has them among its positional arguments


def _shown(name: str, value: Any) -> str:
    return f"{name}: {value if isinstance(value, str | bool) else ', '.join(sorted(value))}"
