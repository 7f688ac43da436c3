"""The plugin's components keep the contracts of their kinds."""

from __future__ import annotations

import pytest

from reidx.registry.registry import Entry
from reidx.testing import conformance


@pytest.mark.parametrize(("entry", "check"), conformance.cases("usl_vi"), ids=conformance.label)
def test_contract(entry: Entry, check: conformance.Check) -> None:
    check(entry)
