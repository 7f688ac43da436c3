"""Detection of idle terms, which cannot train anything, from an epoch's labels and from its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reidx.config.schema import Stage
from reidx.contracts import LabelSet
from reidx.engine.objective import BoundAlignment, BoundTerm
from reidx.registry.build import contract

Terms = Sequence[BoundTerm | BoundAlignment]

STRICTER = (
    "Make the clusterer stricter (a smaller eps or share, a larger min_samples, more clusters), or start from better "
    "weights"
)


def idle_by_labels(stage: Stage, terms: Terms, labels: Mapping[str, LabelSet], epoch: int) -> dict[str, str]:
    """Terms due in ``epoch`` that are idle with these labels, by name, with the reason.

    ``labels`` holds the label sets of the stage's labellings and ``identity``.
    """
    found = {}
    for term in terms:
        if not term.due(epoch):
            continue
        why = "its weight is 0" if term.weight == 0 else None
        if why is None and isinstance(term, BoundTerm):
            why = _idle_reason(stage, term, labels)
        if why is not None:
            found[term.name] = why
    return found


def idle_by_values(terms: Terms, means: Mapping[str, float], steps: int, epoch: int) -> dict[str, str]:
    """Terms due in ``epoch`` that were 0 in all its ``steps``, by name, with possible reasons.

    ``means`` holds the terms' mean values over the steps.
    """
    why = (
        f"its value was 0 in each of {steps} steps. Either its goal is met, or it has nothing to compare: check the "
        "labels and the sampler of its stream"
    )
    return {term.name: why for term in terms if term.due(epoch) and means.get(term.name) == 0.0}


def idle_message(name: str, why: str, epoch: int) -> str:
    """Message about an idle term."""
    return f"epoch {epoch + 1}: the term {name} trains nothing: {why}."


def _idle_reason(stage: Stage, term: BoundTerm, labels: Mapping[str, LabelSet]) -> str | None:
    named = _labellings_of(stage, term, labels)
    if not named:
        return None
    sets = [labels[labelling] for labelling in named]
    where = f"of {' and '.join(named)}"
    for what, given in (("weights", [its.weights for its in sets]), ("soft_targets", [its.soft_targets for its in sets])):
        if what in term.inputs and all(array is not None and not array.any() for array in given):
            return f"all {what.replace('_', ' ')} {where} are 0; check the refiners of this labelling, or its matchers"
    for name in sorted(_matched_arrays(stage, named) & term.needed):
        if all(_unmatched(name, its) for its in sets) and not rests(stage, term, labels):
            return f"all {name} {where} are -1: the matcher found no match. Make it or the clusterers less strict"
    if "scores" in term.inputs and term.memories:
        return _one_column(stage, term, labels)
    if {"features", "targets"} <= term.needed and "scores" not in term.needed:
        return _no_pairs(stage, term, sets, where)
    return None


def rests(stage: Stage, term: BoundTerm | BoundAlignment, labels: Mapping[str, LabelSet]) -> bool:
    """Return true if no image of a term has a match in this epoch, but the matcher gives matches to another labelling.

    A matcher may match its labellings in turn: then the term is not idle.
    """
    named = _labellings_of(stage, term, labels) if isinstance(term, BoundTerm) else []
    slots = [slot for slot in stage.matching if set(named).intersection(slot.labellings)]
    others = [labels[other] for slot in slots for other in slot.labellings if other not in named and other in labels]
    return any(
        all(_unmatched(name, labels[one]) for one in named)
        and any(name in its.extra and not _unmatched(name, its) for its in others)
        for name in _matched_arrays(stage, named).intersection(getattr(term, "needed", ()))
    )


def _labellings_of(stage: Stage, term: BoundTerm, labels: Mapping[str, LabelSet]) -> list[str]:
    """Names of the labellings of a term's images; none if a stream has no labels."""
    named = [term.labels or stage.sources[stream].labels for stream in term.streams]
    return [] if None in named else list(dict.fromkeys(name for name in named if name is not None and name in labels))


def _unmatched(name: str, labels: LabelSet) -> bool:
    """Return true if no image has a match in the array ``name``."""
    return name in labels.extra and bool((labels.extra[name] == -1).all())


def _matched_arrays(stage: Stage, labellings: Sequence[str]) -> frozenset[str]:
    """Names of the arrays that matchers add to the labellings."""
    slots = [slot for slot in stage.matching if set(labellings).intersection(slot.labellings)]
    return frozenset[str]().union(*(contract("matcher", slot.matcher).provides for slot in slots))


def _one_column(stage: Stage, term: BoundTerm, labels: Mapping[str, LabelSet]) -> str | None:
    """Reason for a term with a single score per image: its memories hold one cluster in total."""
    memories = [stage.memories[name] for name in term.memories]
    if any(contract("memory", spec.memory).column_meaning for spec in memories):
        return None  # columns are not clusters
    held = [labels[spec.labels] for spec in memories if spec.labels in labels]
    if len(held) < len(memories) or sum(its.count for its in held) != 1:
        return None
    (one,) = (its for its in held if its.count == 1)
    inside = int((one.labels >= 0).sum())
    return f"{inside} of {len(one.labels)} images are in one cluster, and there is no other to compare with. {STRICTER}"


def _no_pairs(stage: Stage, term: BoundTerm, sets: Sequence[LabelSet], where: str) -> str | None:
    """Reason for a pairwise loss without negatives or without positives in a batch."""
    known = np.concatenate([its.labels[its.labels >= 0] for its in sets])
    names, sizes = np.unique(known, return_counts=True)
    if len(names) == 1:
        return f"all {len(known)} labelled images {where} have one label, but it compares different labels. {STRICTER}"
    samplers = [stage.sources[stream].sampler for stream in term.streams]
    if len(samplers) == 1 and samplers[0].get("identities") == 1:
        return (
            "a batch has images of one label, but it compares images of different labels. Set the sampler's identities to 2 "
            "or more"
        )
    if all(sampler.get("instances") == 1 for sampler in samplers):
        return (
            "a batch has one image of each label, but it compares images of the same label. Set the sampler's instances to 2 "
            "or more"
        )
    if len(sizes) and sizes.max() == 1:
        return (
            f"no two of {len(known)} labelled images {where} share a label, but it compares images of the same label. Make "
            "the clusterer less strict, or use a loss that needs no pairs"
        )
    return None
