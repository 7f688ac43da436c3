"""Matching of several labellings: a matcher turns their label sets into new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reidx.contracts import LabelSet, RefinerContext, contract_in_use
from reidx.errors import DataError
from reidx.labels.neighbours.sharding import require_same_labels
from reidx.labels.pipeline import check_labels, label_statistics
from reidx.profiling import span
from reidx.registry.seam import call


class LabelMatching:
    """A matcher with the names of its labellings, in order."""

    def __init__(self, matcher: Any, labellings: Sequence[str]) -> None:
        self.matcher, self.labellings = matcher, list(labellings)

    @property
    def views(self) -> frozenset[str]:
        """The names of the features that the matcher requires of each labelling."""
        return contract_in_use(self.matcher).requires

    @property
    def provides(self) -> frozenset[str]:
        """The names of the arrays that the matcher adds to each labelling."""
        return contract_in_use(self.matcher).provides

    def __call__(self, labels: Mapping[str, LabelSet], contexts: Mapping[str, RefinerContext]) -> dict[str, LabelSet]:
        """Match the labels of the matcher's labellings; both mappings have the names of labellings as keys.

        Raises :class:`DataError` if no cluster of a labelling is left, and :class:`ReidxError` if the processes of a
        distributed job find different labels.
        """
        before, given = [labels[name] for name in self.labellings], [contexts[name] for name in self.labellings]
        with span("match"):
            after = call("matcher", self.matcher, "__call__", self.matcher, before, given)
        matched = zip(self.labellings, before, after, given, strict=True)
        return {name: self._checked(name, old, new, context) for name, old, new, context in matched}

    def _checked(self, name: str, old: LabelSet, new: LabelSet, context: RefinerContext) -> LabelSet:
        """Return the new label set with a complete report; raises as :meth:`__call__` does."""
        check_labels(new, len(context.cameras))
        if new.count == 0:
            raise DataError(
                f"Epoch {context.epoch + 1}: {type(self.matcher).__name__} left none of the {old.count} clusters of labelling "
                f"{name!r}: all {len(new.labels)} images are outliers. Make the matcher less strict."
            )
        require_same_labels(new.labels, new.arrays())
        changed = not np.array_equal(old.labels, new.labels)
        statistics = label_statistics(new.labels, context.previous) if changed else {}
        return replace(new, report={**old.report, **statistics, **new.report})


def unmatched(labels: Mapping[str, LabelSet], matchings: Sequence[LabelMatching]) -> dict[str, LabelSet]:
    """Return the label sets without the arrays of earlier matchings, which labellings that were not renewed still have."""
    found = dict(labels)
    for matching in matchings:
        for name in matching.labellings:
            kept = {key: array for key, array in found[name].arrays().items() if key not in matching.provides}
            found[name] = replace(LabelSet.of(kept), report=found[name].report)
    return found
