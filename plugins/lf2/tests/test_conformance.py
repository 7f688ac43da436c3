"""The plugin's components keep the contracts of their kinds."""

from __future__ import annotations

from typing import Any

import pytest

from reidx.registry.registry import Component, Entry
from reidx.testing import conformance

VARIANTS: dict[str, dict[str, Any]] = {
    "const": {"gate": "const"},
    "part_head": {"gate": "part_head", "part_input": "sum"},
    "fusion_triplet": {"gate": "fusion_triplet"},
    "Eq. 5": {"order": "mul_then_gate"},
    "local": {"mode": "local"},
    "global": {"mode": "global"},
}


@pytest.mark.parametrize(("entry", "check"), conformance.cases("lf2"), ids=conformance.label)
def test_contract(entry: Entry, check: conformance.Check) -> None:
    check(entry)


@pytest.mark.parametrize("check", conformance.checks_for("fusion"), ids=conformance.label)
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_contract_of_a_variant(settings: dict[str, Any], check: conformance.Check) -> None:
    component = Component("fusion", "FusionModule", "reidx_lf2.fusion_module:FusionModule", settings)
    check(Entry(component, "lf2", "reidx-lf2"))
