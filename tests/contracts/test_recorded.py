"""Built components carry the contract that the checks have read from their spec, and the engine reads no other."""

from __future__ import annotations

import copy
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reidx.contracts import HONOURED, Contract, contract_in_use
from reidx.errors import PluginError
from reidx.registry.build import build, contract
from reidx.registry.registry import KINDS

VALUES: dict[str, Any] = {
    "requires": {"upper"},
    "provides": {"upper"},
    "cameras": "used",
    "outliers": "never",
    "clusterer_input": "features",
    "requires_tail": True,
    "part_features": {"upper"},
    "accepts_parts": {"features"},
    "requires_parts": {"features"},
    "column_meaning": "images",
    "columns": {"clothes"},
}
DEPENDENT = [(kind, name) for kind, names in HONOURED.items() for name in names]


def part(kind: str, name: str) -> type:
    """Make a class whose contract has a declaration for one value of its argument; its attribute has another value."""

    class Part:
        """Component of a test."""

        def __init__(self, mode: str = "plain", cameras: Any = None, labels: Any = None) -> None:
            self.given = mode

        def __call__(self, given: Any, other: Any = None, cameras: Any = None, query_cams: Any = None) -> None: ...

        def forward(self, features: Any, cameras: Any = None) -> None: ...

        def reset(self, features: Any, labels: Any, cameras: Any = None) -> None: ...

        @classmethod
        def contract(cls, mode: str = "plain", **_: Any) -> dict[str, Any]:
            value = {"sampler": "drop", "memory": "keep"}.get(kind, "never") if name == "outliers" else VALUES[name]
            more = {"provides": {"upper"}} if name == "part_features" else {}
            return {name: value, **more} if mode == "changed" else {}

    return Part


@pytest.mark.parametrize(("kind", "name"), DEPENDENT)
def test_built_component_has_the_contract_of_its_spec(
    register: Callable[[str, type], None], kind: str, name: str
) -> None:
    register(kind, part(kind, name))
    for mode in ("plain", "changed"):
        made = build(kind, {"type": "Part", "mode": mode})
        expected = contract(kind, {"type": "Part", "mode": mode})
        assert contract_in_use(made) == expected == contract_in_use(copy.deepcopy(made))
        assert (expected == Contract()) == (mode == "plain")
    assert contract_in_use(build(kind, "Part")) == Contract()


def test_attribute_of_an_instance_is_no_declaration(register: Callable[[str, type], None]) -> None:
    class Late:
        """Refiner that declares its features only in its constructor."""

        provides: ClassVar[set[str]] = {"weights"}

        def __init__(self, labels: Any = None) -> None:
            self.requires, self.provides = {"upper"}, {"agreement"}

    register("refiner", Late)
    assert contract_in_use(build("refiner", "Late")) == contract("refiner", {"type": "Late"})
    assert contract_in_use(Late()) == Contract(requires=frozenset({"upper"}), provides=frozenset({"agreement"}))
    assert contract_in_use(lambda: None) == Contract()


def test_slots_need_a_fixed_contract(register: Callable[[str, type], None]) -> None:
    class Slotted:
        """Refiner without a dictionary of attributes."""

        __slots__ = ()
        provides = frozenset({"weights"})

    register("refiner", Slotted)
    assert contract_in_use(build("refiner", "Slotted")).provides == {"weights"}
    register("refiner", type("Varied", (Slotted,), {"__slots__": (), "contract": staticmethod(lambda **_: {})}))
    with pytest.raises((PluginError, RuntimeError), match="no place for their contract: remove __slots__"):
        build("refiner", "Varied")


def test_components_without_declarations_are_left_alone(register: Callable[[str, type], None]) -> None:
    for kind in set(KINDS) - {kind for kind, names in HONOURED.items() if names}:
        register(kind, type("Free", (types.SimpleNamespace,), {"__doc__": "Component.", "__init__": lambda self: None}))
        assert vars(build(kind, "Free")) == {}


def test_engine_reads_declarations_in_one_way() -> None:
    """Declarations are read from contracts: no module looks for them in an instance."""
    names = "|".join(set(VALUES) - {"cameras", "columns"})
    root = Path(__file__).parents[2] / "reidx"
    files = [path for path in root.rglob("*.py") if "contracts" not in path.parts]
    read = [f"{path.name}: {found[0]}" for path in files
            for found in re.finditer(rf"(?:get|has)attr\([^()]*\"(?:{names})\"", path.read_text(encoding="utf-8"))]  # fmt: skip
    assert read == [] and len(files) > 100
