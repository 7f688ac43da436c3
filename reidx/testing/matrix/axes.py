"""Axes of the matrix: the installed components of each kind, with settings for few images."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from reidx.contracts import RESERVED, Contract, contract_of, inputs_of_kind
from reidx.errors import ConfigError
from reidx.registry.build import fill_defaults, signature_of
from reidx.registry.discovery import registry
from reidx.registry.registry import KINDS, Entry

AXES = ("backbone", "fusion", "alignment", "clusterer", "refiner", "memory")
OPTIONAL = ("alignment", "refiner")
"""Kinds that an experiment may omit."""

FAMILIES: dict[str, list[dict[str, Any]]] = {
    "Timm": [
        {"name": "test_resnet"},
        {"name": "test_vit"},
        {"name": "test_vit", "tokens": ["class_token"]},
        {"name": "test_convnext"},
    ]
}
"""One network per family for backbones that wrap many; other backbones use their examples."""

FOR_FEW_IMAGES: dict[str, dict[str, Any]] = {
    "clusterer": {"n_clusters": 6, "eps": 0.7, "share": 0.03, "min_samples": 2, "min_cluster_size": 2, "min_size": 2},
    "refiner": {"k": 5},
}
"""Values for a few dozen images: of arguments that a component of the kind has in its example or as numbers by default."""


@dataclass(frozen=True)
class Choice:
    """Value of an axis: a component with its settings, or no component."""

    kind: str
    label: str
    entry: Entry | None = field(default=None, compare=False)
    spec: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def namespace(self) -> str | None:
        """Namespace of the component's plugin, "" for the core; None for no component."""
        return None if self.entry is None else self.entry.namespace

    @property
    def component(self) -> type:
        """Class of the component."""
        assert self.entry is not None
        return self.entry.load()

    @functools.cached_property
    def contract(self) -> Contract:
        """Contract under these settings; empty for no component."""
        return Contract() if self.entry is None else _contract(self.entry, self.spec)

    def argument(self, name: str) -> Any:
        """Return the value or default of a constructor argument; None if there is no such argument."""
        assert self.entry is not None
        known = signature_of(self.entry)
        return self.spec.get(name, known[name].default) if name in known else None

    def __str__(self) -> str:
        return self.label


def axes() -> dict[str, list[Choice]]:
    """Return the values of each axis, by kind: the components in the registry.

    A backbone that requires a further column of the data set is left out, since the matrix's images have none.
    """
    return {
        kind: [*([Choice(kind, "none")] if kind in OPTIONAL else []), *(c for e in registry().entries(kind) for c in _of(e))]
        for kind in AXES
    }


@functools.cache
def losses() -> list[Choice]:
    """Return the installed losses, the core's first; some of them read memories and additions of refiners."""
    return [Choice("loss", entry.name, entry, _spec(entry, entry.component.example)) for entry in registry().entries("loss")]


def _of(entry: Entry) -> Iterator[Choice]:
    """Yield a component with its example settings, and with its defaults if their contract differs."""
    if entry.kind == "backbone" and inputs_of_kind("backbone", entry.load())[0] - RESERVED:
        return
    if entry.name in FAMILIES:
        for settings in FAMILIES[entry.name]:
            tokens = " with tokens" if "tokens" in settings else ""  # only a fusion that takes them combines with it
            yield Choice(entry.kind, f"{entry.name} {settings['name']}{tokens}", entry, _spec(entry, settings))
        return
    example, bare = _spec(entry, entry.component.example), _spec(entry, {})
    yield Choice(entry.kind, entry.name, entry, example)
    try:
        otherwise = _contract(entry, bare) != _contract(entry, example)
    except ConfigError:  # it requires arguments
        return
    if otherwise:
        yield Choice(entry.kind, f"{entry.name} by default", entry, bare)


def _spec(entry: Entry, settings: Any) -> dict[str, Any]:
    known = signature_of(entry)
    few = {
        name: value
        for name, value in FOR_FEW_IMAGES.get(entry.kind, {}).items()
        if name in settings or (name in known and isinstance(known[name].default, int | float))
    }
    return {"type": entry.name, **settings, **few}


def _contract(entry: Entry, spec: dict[str, Any]) -> Contract:
    filled = fill_defaults(entry.kind, spec, KINDS[entry.kind].context)
    return contract_of(entry.load(), {key: value for key, value in filled.items() if key != "type"})
