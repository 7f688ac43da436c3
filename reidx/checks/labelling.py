"""Checks of a stage's labellings and of their matching."""

from __future__ import annotations

from reidx.checks.base import StageChecker
from reidx.config.node import KeyPath, dotted
from reidx.config.parts import Part, parts_of
from reidx.config.schema import Labelling, MatchingSlot, names_in
from reidx.contracts import INPUTS
from reidx.registry.build import contract
from reidx.registry.discovery import registry


class LabellingChecker(StageChecker):
    """Checker of a stage's labellings and matchings."""

    def run(self) -> None:
        for name, level in self.stage.labels.items():
            at: KeyPath = ("labels", "labellings", name)
            if name == "identity":
                raise self.error(at, "'identity' is reserved for the data set's own labels; rename the labelling.")
            self.check_level(at, level)
        for index, matching in enumerate(self.stage.matching):
            self.check_matching(index, matching)

    def check_level(self, at: KeyPath, level: Labelling) -> None:
        if level.domain is None:
            raise self.error(at, "domain is missing: name the domain to label.")
        self.check_domain((*at, "domain"), level.domain)
        self.check_network_names((*at, "network"), level.network)
        self.check_feature((*at, "feature"), level.feature)
        for part in parts_of(level, at):
            on_graph = part.kind == "clusterer" and contract(part.kind, part.spec).clusterer_input != "features"
            if on_graph and level.distance is None:
                raise self.error((*at, "distance"), f"{part.name} works on a graph; give a distance.")
            self.check_required_features(part)
            self.check_named_inputs(part, level.domain)
            self.check_provided_names(part, level.domain)
        self.check_one_of((*at, "memory"), level.memory, self.stage.memories, "memory")
        if level.memory is not None:
            self.check_memory_features((*at, "memory"), level)

    def check_memory_features(self, at: KeyPath, level: Labelling) -> None:
        """Raise unless the memory that a labelling clusters stores its feature for each image."""
        memory = self.stage.memories[level.memory or ""]
        if not hasattr(registry().find("memory", memory.memory["type"]).class_or_outline(), "images"):
            raise self.error(at, f"{memory.memory['type']} does not hold an entry for each image, so it cannot be clustered.")
        for key in ("network", "feature"):
            if set(names_in(getattr(memory, key))) != set(names_in(getattr(level, key))):
                raise self.error(
                    at, f"memory {level.memory!r} holds {key} {getattr(memory, key)!r}, the labelling has {key} "
                    f"{getattr(level, key)!r}."
                )
        held = self.domain_of_labels(memory.labels)
        if held != level.domain:
            raise self.error(at, f"memory {level.memory!r} holds images of {held!r}, the labelling is of {level.domain!r}.")

    def check_matching(self, index: int, matching: MatchingSlot) -> None:
        """Raise unless a matcher gets several labellings, and the names of its arrays are not in use."""
        at: KeyPath = ("matching", index)
        names = matching.labellings
        for name in names:
            self.check_one_of((*at, "labellings"), name, self.stage.labels, "labelling")
        if len(names) < 2 or len(set(names)) < len(names):
            raise self.error((*at, "labellings"), "a matcher compares different labellings: name two or more, each once.")
        part = Part("matcher", matching.matcher, (*at, "matcher"), matching)
        self.check_required_features(part)
        self.check_named_inputs(part, None)
        provided = contract("matcher", matching.matcher).provides
        for name in sorted(provided & {"labels", *INPUTS} - {"weights", "soft_targets"}):
            raise self.error(part.path, f"{part.name} provides {name!r}, which is the name of something else.")
        for labelling in names:
            self.check_provided_names(part, self.stage.labels[labelling].domain)
            for other in self.sources_of_arrays(labelling, index):
                for name in sorted(provided & contract(other.kind, other.spec).provides):
                    raise self.error(
                        part.path,
                        f"{part.name} provides {name!r} for labelling {labelling!r}, but {other.name} ({dotted(other.path)}) "
                        "provides it already. Remove one of them.",
                    )

    def sources_of_arrays(self, labelling: str, matchings: int) -> list[Part]:
        """Return the refiners of a labelling, and its matchers among the first ``matchings`` of the stage."""
        made = parts_of(self.stage.labels[labelling], ("labels", "labellings", labelling))
        matchers = [
            Part("matcher", slot.matcher, ("matching", number, "matcher"), slot)
            for number, slot in enumerate(self.stage.matching[:matchings])
            if labelling in slot.labellings
        ]
        return [*(part for part in made if part.kind == "refiner"), *matchers]
