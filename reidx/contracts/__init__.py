"""Data types that components exchange, and declarations of their inputs and outputs."""

from reidx.contracts.declarations import (
    CAMERAS,
    CLUSTERER_INPUTS,
    OUTLIERS,
    Batch,
    Call,
    Contract,
    Features,
    LabelSet,
    RefinerContext,
    Trial,
    contract_of,
    mean_normalized,
    overrides_update,
)
from reidx.contracts.honoured import declaration_fault, declared_by
from reidx.contracts.inputs import (
    RESERVED,
    argument_names,
    camera_inputs,
    column_inputs,
    feature_inputs,
    inputs_by_method,
    inputs_of,
    inputs_of_kind,
    named_inputs,
)
from reidx.contracts.protocols import CALLS, HONOURED, INPUTS, OUTLIERS_OF
from reidx.contracts.recorded import contract_in_use, record_contract

__all__ = [
    "CALLS",
    "CAMERAS",
    "CLUSTERER_INPUTS",
    "HONOURED",
    "INPUTS",
    "OUTLIERS",
    "OUTLIERS_OF",
    "RESERVED",
    "Batch",
    "Call",
    "Contract",
    "Features",
    "LabelSet",
    "RefinerContext",
    "Trial",
    "argument_names",
    "camera_inputs",
    "column_inputs",
    "contract_in_use",
    "contract_of",
    "declaration_fault",
    "declared_by",
    "feature_inputs",
    "inputs_by_method",
    "inputs_of",
    "inputs_of_kind",
    "mean_normalized",
    "named_inputs",
    "overrides_update",
    "record_contract",
]
