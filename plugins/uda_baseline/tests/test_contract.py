"""The checks that every component must pass, run on this plugin's components."""

from __future__ import annotations

import pytest

from reidx.registry.registry import Entry
from reidx.testing import conformance


@pytest.mark.parametrize(("entry", "check"), conformance.cases("uda_baseline"), ids=conformance.label)
def test_contract(entry: Entry, check: conformance.Check) -> None:
    check(entry)
