"""Data types that components exchange, and declarations of their inputs and outputs."""

from reidx.contracts.declarations import (
    CAMERAS,
    CLUSTERER_INPUTS,
    INPUTS,
    OUTLIERS,
    Batch,
    Contract,
    Features,
    LabelSet,
    RefinerContext,
    contract_of,
    inputs_of,
    mean_normalized,
    overrides_update,
)

__all__ = [
    "CAMERAS",
    "CLUSTERER_INPUTS",
    "INPUTS",
    "OUTLIERS",
    "Batch",
    "Contract",
    "Features",
    "LabelSet",
    "RefinerContext",
    "contract_of",
    "inputs_of",
    "mean_normalized",
    "overrides_update",
]
