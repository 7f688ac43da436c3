"""The plugin's components, and the forms of its alignment, keep the contracts of their kinds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reidx.registry.discovery import registry
from reidx.registry.registry import Entry
from reidx.testing import conformance


@pytest.mark.parametrize(("entry", "check"), conformance.cases("daam"), ids=conformance.label)
def test_contract(entry: Entry, check: conformance.Check) -> None:
    check(entry)


@pytest.mark.parametrize("check", conformance.checks_for("alignment"), ids=conformance.label)
@pytest.mark.parametrize(
    "example",
    [
        {"kind": "bce"},
        {"kind": "svdd", "centre_momentum": 0.9},
        {"kind": "svdd", "soft_boundary": True},
        {"kind": "domain_mean"},
    ],
    ids=str,
)
def test_contract_of_the_other_forms(example: dict[str, Any], check: conformance.Check) -> None:
    entry = registry().find("alignment", "daam.NominalDomain")
    check(replace(entry, component=replace(entry.component, example=example)))
