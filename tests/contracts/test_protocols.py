"""Every registered component has the methods of its kind's interface with matching arguments."""

from __future__ import annotations

import inspect

import pytest

from reidx.contracts import CALLS
from reidx.contracts.protocols import INTERFACES
from reidx.registry.discovery import registry
from reidx.registry.registry import KINDS, Entry


def methods(interface: type) -> dict[str, list[str]]:
    """Return the methods of an interface, each with its required positional arguments."""
    own = {name: value for name, value in vars(interface).items() if inspect.isfunction(value)}
    return {
        name: [p.name for p in inspect.signature(value).parameters.values() if p.default is p.empty][1:]
        for name, value in own.items()
        if name not in ("__init__", "__subclasshook__")
    }


def lacking(component: type, kind: str) -> list[str]:
    """Return the methods of a kind's interface that a component lacks or whose arguments do not match."""
    found = []
    interface = INTERFACES[kind]
    for name, arguments in methods(interface).items():
        method = getattr(component, name, None)
        if method is None:
            found.append(name)
            continue
        parameters = list(inspect.signature(method).parameters.values())[1:]
        most = float("inf") if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(parameters)
        least = sum(p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD for p in parameters)
        if name in CALLS.get(kind, ()):  # the others are passed by name
            least = min(least, len(arguments))
        if not least <= len(arguments) <= most:
            found.append(f"{name} with {len(arguments)} arguments")
    return found


def test_every_kind_has_an_interface() -> None:
    assert set(INTERFACES) == set(KINDS)


@pytest.mark.parametrize("entry", list(registry().entries()), ids=lambda entry: f"{entry.kind} {entry.name}")
def test_component_has_its_interface(entry: Entry) -> None:
    assert lacking(entry.load(), entry.kind) == []


def test_missing_method_or_argument_is_found() -> None:
    class Half:
        def reset(self, features: object) -> None: ...

        def forward(self, features: object) -> None: ...

    assert lacking(Half, "memory") == ["reset with 2 arguments", "update"]
