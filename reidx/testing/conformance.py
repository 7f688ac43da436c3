"""Conformance checks for every kind of component, which a plugin's tests run on its own components.

    from reidx.testing import conformance

    @pytest.mark.parametrize(("entry", "check"), conformance.cases("lf2"), ids=conformance.label)
    def test_contract(entry, check):
        check(entry)

A check builds the component from its ``example`` and raises :class:`AssertionError` with the fault it finds. The table in
``docs/plugins.md`` lists the arguments and results of each kind.
"""

from __future__ import annotations

from collections.abc import Callable

from reidx.registry.discovery import registry
from reidx.registry.registry import Entry
from reidx.testing import (
    alignment_checks,
    export_checks,
    feature_checks,
    label_checks,
    optimizer_checks,
    retrieval_checks,
    weights_checks,
)

Check = Callable[[Entry], None]

_OF_KIND: dict[str, list[Check]] = {
    "transform": [feature_checks.makes_network_input],
    "sampler": [feature_checks.fills_every_batch],
    "backbone": [
        feature_checks.gives_a_map,
        feature_checks.trains_every_parameter,
        export_checks.exports_with_a_dynamic_batch,
    ],
    "fusion": [
        feature_checks.gives_the_features_it_declares,
        feature_checks.features_are_independent_of_the_batch,
        export_checks.exports_with_a_dynamic_batch,
    ],
    "distance": [label_checks.gives_a_graph],
    "clusterer": [label_checks.gives_labels],
    "refiner": [label_checks.refines_labels],
    "matcher": [label_checks.matches_labellings],
    "memory": [label_checks.follows_the_memory_cycle, label_checks.restores_from_a_checkpoint],
    "loss": [label_checks.returns_a_scalar_with_a_gradient],
    "alignment": [
        alignment_checks.aligns_two_domains,
        alignment_checks.ignores_other_features,
        alignment_checks.is_finite_for_equal_domains,
        alignment_checks.aligns_in_fp32,
        alignment_checks.resumes_from_a_checkpoint,
    ],
    "protocol": [
        retrieval_checks.ignores_each_row_independently,
        retrieval_checks.is_described_on_the_card,
        retrieval_checks.draws_the_same_trials,
        retrieval_checks.measures_each_query_independently,
    ],
    "reranker": [retrieval_checks.reranks_a_gallery],
    "weights": [weights_checks.recognises_its_layout_alone, weights_checks.renames_each_tensor_once],
    "optimizer": [
        optimizer_checks.steps_without_a_closure,
        optimizer_checks.follows_the_rate_of_each_group,
        optimizer_checks.resumes_bit_for_bit,
    ],
    "schedule": [optimizer_checks.sets_finite_rates],
}


def checks_for(kind: str) -> list[Check]:
    """The checks of a kind: those of all components first, then the specific ones."""
    return [
        feature_checks.loads,
        feature_checks.is_documented,
        feature_checks.example_is_complete,
        feature_checks.declares_a_contract,
        *_OF_KIND.get(kind, []),
    ]


def cases(namespace: str | None = None) -> list[tuple[Entry, Check]]:
    """Every registered component of a plugin (of the core for ``""``, of all for None) paired with each check it must pass."""
    entries = [e for e in registry().entries() if namespace is None or e.namespace == namespace]
    return [(entry, check) for entry in entries for check in checks_for(entry.kind)]


def label(value: Entry | Check) -> str:
    """A short name for a test's id."""
    return f"{value.kind}:{value.name}" if isinstance(value, Entry) else value.__name__
