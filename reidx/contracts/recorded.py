"""The contract of an instance: the one that its spec resolved to, as the checks have read it."""

from __future__ import annotations

from typing import Any

from reidx.contracts.declarations import Contract
from reidx.contracts.honoured import declared_by
from reidx.errors import Broken

_KEY = "reidx_contract"


def record_contract(component: Any, contract: Contract) -> None:
    """Record the contract with which ``component`` was built, also for its copies.

    Raises :class:`Broken` for an object without a ``__dict__``, whose contract may depend on its arguments.
    """
    if hasattr(component, "__dict__"):
        vars(component)[_KEY] = contract
    elif hasattr(component, "contract"):
        raise Broken("its instances have no place for their contract: remove __slots__")


def contract_in_use(component: Any) -> Contract:
    """Return the contract with which a component was built; of an object that was not built from a spec, its attributes."""
    known: Contract | None = getattr(component, "__dict__", {}).get(_KEY)
    if known is None:
        known = Contract(**{name: _fixed(value) for name, value in declared_by(component).items()})
    return known


def _fixed(value: Any) -> Any:
    return value if isinstance(value, str | bool) else frozenset(value)
