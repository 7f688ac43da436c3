"""Declarations without effect are refused, with the component and the reason; the documented table is the one in the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reidx.contracts import (
    CALLS,
    HONOURED,
    OUTLIERS,
    OUTLIERS_OF,
    Contract,
    contract_of,
    declaration_fault,
    declared_by,
)
from reidx.errors import PluginError
from reidx.registry.build import contract
from reidx.registry.discovery import registry
from reidx.registry.registry import KINDS

DOCS = Path(__file__).parents[2] / "docs/plugins.md"
VALUES: dict[str, Any] = {
    "requires": {"upper"},
    "provides": {"upper"},
    "cameras": "used",
    "outliers": "never",
    "clusterer_input": "graph",
    "requires_tail": True,
    "part_features": {"upper"},
    "accepts_parts": {"features"},
    "requires_parts": {"features"},
    "column_meaning": "images",
    "columns": {"clothes"},
}


def made(base: type = object, **declared: Any) -> type:
    """Make a class with these attributes."""
    return type("Made", (base,), {"__doc__": "Component of a test.", **declared})


class Blind:
    """Class without an argument for cameras in any method."""

    def __init__(self, labels: Any = None) -> None: ...

    def __call__(self, features: Any, within: float = 1.0) -> None: ...

    def forward(self, features: Any, targets: Any = None) -> None: ...

    def reset(self, features: Any, labels: Any) -> None: ...

    def update(self, features: Any, targets: Any, index: Any) -> None: ...


def test_tables_cover_all_kinds_and_declarations() -> None:
    assert list(HONOURED) == list(KINDS)
    assert set().union(*HONOURED.values()) == set(Contract.__dataclass_fields__) == set(VALUES)
    assert set(OUTLIERS_OF) == {kind for kind, names in HONOURED.items() if "outliers" in names}
    assert {"", *(word for words in OUTLIERS_OF.values() for word in words)} == set(OUTLIERS)
    assert set(CALLS) <= {kind for kind, names in HONOURED.items() if "cameras" in names}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in HONOURED for name in VALUES if name not in HONOURED[kind]]
)
def test_declaration_that_a_kind_does_not_read(kind: str, name: str, register: Callable[[str, type], None]) -> None:
    register(kind, made(**{name: VALUES[name]}))
    with pytest.raises(PluginError, match=rf"^{kind} Made \(from the test, .*it declares {name}: .* {kind} does not read"):
        registry().find(kind, "Made").load()


@pytest.mark.parametrize(
    ("kind", "declared", "message"),
    [
        ("distance", {"cameras": "required"}, "cameras: required, but its __call__ has no argument cameras"),
        ("clusterer", {"cameras": "used"}, "cameras: used, but its __call__ has no argument cameras"),
        ("memory", {"cameras": "required"}, "cameras: required, but its reset or update has no argument cameras"),
        ("loss", {"cameras": "used"}, "cameras: used, but its forward has no argument cameras"),
        ("sampler", {"cameras": "used"}, "cameras: used, but its constructor has no argument cameras"),
        ("reranker", {"cameras": "used"}, "cameras: used, but its __call__ has no argument gallery_cams or query_cams: add"),
        ("sampler", {"outliers": "emits"}, "outliers: emits; for the kind sampler it is draw or drop"),
        ("clusterer", {"outliers": "drop"}, "outliers: drop; for the kind clusterer it is emits or never"),
        ("memory", {"requires_parts": {"scores"}}, "requires_parts: scores, but has no such input"),
        ("loss", {"accepts_parts": {"scores"}}, r"but has no such input \(those that can have parts: features\)"),
        ("fusion", {"part_features": {"parts"}, "provides": {"embed"}}, "part_features: parts, which its provides does not"),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_declaration_without_effect(
    kind: str, declared: dict[str, Any], message: str, dynamic: bool, register: Callable[[str, type], None]
) -> None:
    if dynamic:
        register(kind, made(Blind, contract=staticmethod(lambda: declared)))
        assert registry().find(kind, "Made").load()
    else:
        register(kind, made(Blind, **declared))
    with pytest.raises(PluginError, match=message):
        contract(kind, {"type": "Made"})


class Seeing(Blind):
    """Class with an argument for cameras in each method."""

    def __init__(self, cameras: Any = None) -> None: ...

    def __call__(self, features: Any, *, cameras: Any, query_cams: Any = None) -> None: ...  # type: ignore[override]

    def forward(self, features: Any, cameras: Any) -> None: ...

    def update(self, features: Any, targets: Any, index: Any, cameras: Any = None) -> None: ...


@pytest.mark.parametrize("kind", [kind for kind, names in HONOURED.items() if "cameras" in names])
def test_cameras_with_effect(kind: str) -> None:
    assert declaration_fault(kind, Seeing, {"cameras": "required"}) == ""


def test_defaults_and_other_attributes_are_no_declarations() -> None:
    class Quiet:
        requires: frozenset[str] = frozenset()
        cameras = "unused"
        outliers = property(lambda self: "never")
        provides = 3

    assert contract_of(made(outliers=Quiet.outliers, columns=Quiet.outliers)) == Contract()
    assert declared_by(Quiet) == {} == declared_by(contract_of(type("Empty", (), {})))
    assert declared_by(made(requires=["a"], requires_tail=True)) == {"requires": ["a"], "requires_tail": True}


def test_documented_table_is_that_of_the_code() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.read_text(encoding="utf-8").splitlines()]
    begin = rows.index(["attribute", "of", "meaning"]) + 2
    found = {
        name: set(re.findall(r"`(\w+)`", row[1]))
        for row in rows[begin : rows.index([""], begin)]
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert found == {name: {kind for kind, names in HONOURED.items() if name in names} for name in VALUES}
