"""Checks that the components of each stage fit together, from the config alone, before an image is read.

Every mismatch is one :class:`ConfigError` with the config line, the missing input, and the components that provide it.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reidx.checks.base import StageChecker, join_names, providing, taking
from reidx.checks.labelling import LabellingChecker
from reidx.checks.objective import ObjectiveChecker
from reidx.config.node import KeyPath, dotted
from reidx.config.parts import Part, parts_of
from reidx.config.schema import MemorySlot, Stage, memory_streams, names_in
from reidx.contracts import OTHER_LABELS, RESERVED, inputs_by_method, inputs_of_kind, overrides_update
from reidx.errors import ConfigError
from reidx.registry.build import contract
from reidx.registry.discovery import registry
from reidx.registry.seam import call_attributed

if TYPE_CHECKING:
    from reidx.config.config import Config


def check_stages(config: Config) -> None:
    """Raise :class:`ConfigError` for the first mismatch in any stage."""
    _folder(config, ("name",), config.experiment.name)
    _columns(config)
    names: list[str] = []
    trained: list[str] = []
    for position, stage in enumerate(config.experiment.stages):
        at = ("stages", position, "name")
        _folder(config, at, stage.name)
        if stage.name in names:
            raise ConfigError(f"{config.place(at)}: there is a stage called {stage.name!r} already; rename one.")
        _StageCheck(config, ("stages", position), stage, trained).run()
        names.append(stage.name)
        if stage.epochs > 0:  # a stage of 0 epochs leaves no checkpoint to start from
            trained.append(stage.name)


def _columns(config: Config) -> None:
    """Raise unless the further columns of the data sets have names that an argument can have and the engine does not use."""
    for domain, spec in config.experiment.data.domains.items():
        at = ("data", "domains", domain)
        for name in sorted(contract("dataset", spec).columns):
            names = {name, f"query_{name}", f"gallery_{name}"}
            if not name.isidentifier() or keyword.iskeyword(name) or names & RESERVED:
                raise ConfigError(
                    f"{config.place(at)}: {dotted(at)}: a component gets the column {name!r} by an argument of that name; it "
                    f"must be a Python name, and neither it nor query_{name} or gallery_{name} one of "
                    f"{', '.join(sorted(RESERVED))}. Rename the column."
                )


def _folder(config: Config, at: KeyPath, name: str) -> None:
    """Raise unless ``name`` is valid as a folder name, as names of experiments and stages must be."""
    if not re.fullmatch(r"[\w][\w .+=@-]*", name) or name != name.strip():
        raise ConfigError(
            f"{config.place(at)}: {dotted(at)} is {name!r}; it names a folder, so it must begin with a letter or a digit, "
            "followed by letters, digits, spaces and any of . _ - + = @."
        )


class _StageCheck(StageChecker):
    def run(self) -> None:
        stage = self.stage
        for part in parts_of(stage):
            contract(part.kind, part.spec)  # raises if a declaration has no effect
        self.check_fusion()
        self.check_network_inputs()
        self.check_tokens()
        self.check_one_of(("init",), _stage_of(stage.init), self.earlier, "stage that trains before this one")
        for name, teacher in stage.teachers.items():
            at: KeyPath = ("teachers", name)
            self.check_name(at, name, ("student",))
            if teacher.type == "EMA":
                followed = [n for n in self.networks if n != name]
                self.check_one_of((*at, "of"), teacher.of, followed, "network to follow")
                if name in self.chain_of_averages(teacher.of):
                    raise self.error((*at, "of"), f"{name!r} would follow {teacher.of!r}, which follows it.")
            self.check_one_of((*at, "weights"), _stage_of(teacher.weights), self.earlier, "stage that trains before this one")
        LabellingChecker(self.config, self.base, stage, self.earlier).run()
        if stage.clip_grad == 0:
            raise self.error(("clip_grad",), "gradients clipped to 0 change no weight; set null for no clipping.")
        self.check_state_from()
        if stage.epochs > 0 and not stage.streams:
            raise self.error(("streams",), "a stage that trains needs at least one stream.")
        self.check_domains()
        taken = list(stage.streams)
        for name, stream in stage.streams.items():
            for view in stream.views:
                self.check_name(("streams", name, "views", view), view, taken)
                taken.append(view)
            self.check_domain(("streams", name, "domain"), stream.domain)
            if stream.labels is not None:
                self.check_one_of(
                    ("streams", name, "labels"), stream.labels, ["identity", *stage.labels], "labelling"
                )
                if stream.labels in stage.labels and stage.labels[stream.labels].domain != stream.domain:
                    raise self.error(
                        ("streams", name, "labels"),
                        f"labelling {stream.labels!r} is of domain {stage.labels[stream.labels].domain!r}, but the "
                        f"stream draws from {stream.domain!r}.",
                    )
            elif stream.sampler["type"] == "PK":
                raise self.error(
                    ("streams", name, "sampler"), "PK sampling needs labels; use Shuffle for an unlabelled stream."
                )
        own = {stream.domain for stream in stage.streams.values() if stream.labels == "identity"}
        if len(own) > 1:
            names = " and ".join(sorted(own))
            raise self.error(("streams",), f"one stage can use the identities of one domain, not of {names}.")
        self.check_network_streams()
        for name, memory in stage.memories.items():
            self.check_memory(name, memory)
        terms = ObjectiveChecker(self.config, self.base, stage, self.earlier)
        for index, term in enumerate(stage.objective):
            terms.check_term(index, term)
        if stage.epochs > 0 and not stage.objective:
            raise self.error(("objective",), "a stage that trains needs at least one term.")
        if stage.epochs > 0 and all(term.from_epoch >= stage.epochs for term in stage.objective):
            raise self.error(
                ("objective",), f"no term begins within the stage's {stage.epochs} epochs (from_epoch counts from 0)."
            )
        # the set of active terms changes only where a term begins or ends
        bounds = {t.from_epoch for t in stage.objective} | {t.until_epoch or stage.epochs for t in stage.objective}
        for epoch in sorted(bound for bound in bounds if bound < stage.epochs):
            if min(t.from_epoch for t in stage.objective) <= epoch and not any(
                t.from_epoch <= epoch < (t.until_epoch or stage.epochs) for t in stage.objective
            ):
                raise self.error(("objective",), f"no term counts in epoch {epoch} (from 0), so nothing would be trained.")
        for index, alignment in enumerate(stage.alignment):
            terms.check_alignment(index, alignment)
        evaluate = stage.evaluate
        if evaluate.domain is not None:
            self.check_domain(("evaluate", "domain"), evaluate.domain)
            self.check_one_of(("evaluate", "network"), evaluate.network, self.networks, "network")
            self.check_feature(("evaluate", "feature"), evaluate.feature)
            for part in parts_of(evaluate, ("evaluate",)):
                self.check_named_inputs(part, evaluate.domain)
        for key in ("domain_probe", "rerank"):
            if getattr(evaluate, key) is not None and evaluate.domain is None:
                raise self.error(("evaluate", key), "it is part of an evaluation: name its domain (domain: NAME).")
        if evaluate.domain_probe is not None:
            self.check_feature(("evaluate", "domain_probe"), evaluate.domain_probe)
            if len(stage.domains) != 2:
                raise self.error(
                    ("evaluate", "domain_probe"),
                    f"it separates two domains, but the stage draws from {', '.join(stage.domains) or 'none'}.",
                )

    # ---- components

    def check_state_from(self) -> None:
        """Raise unless the optimiser can start from the state of an earlier stage's optimiser."""
        own, reference = self.stage.optimizer, self.stage.optimization.state_from
        if reference is None:
            return
        at: KeyPath = ("optimization", "state_from")
        if _stage_of(reference) is None:
            raise self.error(at, f"the optimiser's state comes from a stage: write stage:{reference}, if that is its name.")
        self.check_one_of(at, _stage_of(reference), self.earlier, "stage that trains before this one")
        other = self.earlier_stage(reference).optimizer
        if (own["type"], own.get("amsgrad", False)) != (other["type"], other.get("amsgrad", False)):
            raise self.error(at, f"{own['type']} cannot start from the state of another optimiser ({other['type']}).")

    def earlier_stage(self, reference: str) -> Stage:
        """Return the stage that ``stage:NAME`` refers to."""
        return next(s for s in self.config.experiment.stages if s.name == _stage_of(reference))

    def check_domains(self) -> None:
        """Raise if a network with one BatchNorm per domain lacks the BatchNorm of a domain in use."""
        stage = self.stage
        begun: dict[KeyPath, str | None] = {("init",): stage.init}
        begun |= {("teachers", name, "weights"): teacher.weights for name, teacher in stage.teachers.items()}
        for at, reference in begun.items():
            if reference is None or _stage_of(reference) is None:
                continue
            source = self.earlier_stage(reference)
            lacking = [d for d in stage.domains if d not in source.domains] if stage.model.domain_bn else ["all alike"]
            if source.model.domain_bn and lacking:
                raise self.error(
                    at,
                    f"{reference} has a BatchNorm for each of {', '.join(source.domains)}, none for {', '.join(lacking)}. Set "
                    "model.domain_bn: false in that stage, or let it draw from those domains too.",
                )
        if not stage.model.domain_bn:
            return
        if stage.joint:
            raise self.error(("joint",), "one pass over all streams has one BatchNorm, but model.domain_bn requires several.")
        for domain in stage.domains:
            self.check_name(("model", "domain_bn"), domain)
        looked_at: dict[KeyPath, str | None] = {("evaluate", "domain"): stage.evaluate.domain}
        looked_at |= {("labels", "labellings", name, "domain"): level.domain for name, level in stage.labels.items()}
        for at, looked in looked_at.items():
            known_as = "domain that a stream draws from (model.domain_bn: one BatchNorm each)"
            self.check_one_of(at, looked, stage.domains, known_as)

    def check_fusion(self) -> None:
        """Raise if the fusion requires a teacher's map and the stage has no EMA of the student."""
        name = self.stage.model.fusion["type"]
        wanted = self.arguments_of_fusion().get("teacher")
        averaged = any(t.type == "EMA" and t.of == "student" for t in self.stage.teachers.values())
        if wanted is not None and wanted.default is wanted.empty and not averaged:
            raise self.error(
                ("model", "fusion"),
                f"{name} needs the map of a teacher; add one to the stage: teachers: {{mean: {{type: EMA}}}}.",
            )

    def check_network_inputs(self) -> None:
        """Raise unless backbone and fusion get the inputs that they name, in each domain whose images they process."""
        model = self.stage.model
        domains: list[str | None] = [*self.stage.domains_seen] or [None]
        for domain in domains:
            self.check_named_inputs(Part("backbone", model.backbone, ("model", "backbone"), model), domain)
            self.check_named_inputs(Part("fusion", model.fusion, ("model", "fusion"), model), domain)
        for kind, spec in (("backbone", model.backbone), ("fusion", model.fusion)) if self.stage.joint else ():
            named = set[str]().union(*inputs_of_kind(kind, registry().find(kind, spec["type"]).class_or_outline()))
            for name in sorted(named):
                having = [domain for domain in self.stage.domains if name in self.columns_of(domain)]
                if having and len(having) < len(self.stage.domains):
                    raise self.error(
                        ("joint",),
                        f"{kind} {spec['type']} takes {name!r}, which domain {having[0]!r} has, but not all domains of the "
                        "streams; in one pass over all streams it would get none. Leave out `joint`, or use data sets with the "
                        "column.",
                    )

    def check_tokens(self) -> None:
        """Raise unless the fusion takes each token in the backbone's argument ``tokens``."""
        backbone, fusion = self.stage.model.backbone, self.stage.model.fusion["type"]
        asked = backbone.get("tokens")
        unused = contract("backbone", backbone).provides.difference(self.arguments_of_fusion())
        for name in sorted(unused):
            if name in (asked if isinstance(asked, list | tuple) else [asked]):
                raise self.error(
                    ("model", "backbone", "tokens"),
                    f"{backbone['type']} provides {name!r}, which fusion {fusion} does not take: it has no effect. Remove it, "
                    f"or set a fusion that takes it: {join_names(taking('fusion', name))}.",
                )

    def chain_of_averages(self, name: str) -> list[str]:
        """Return the chain of networks that an EMA follows, up to the first repetition."""
        seen: list[str] = []
        while name in self.stage.teachers and self.stage.teachers[name].type == "EMA" and name not in seen:
            seen.append(name)
            name = self.stage.teachers[name].of
        return [*seen, name]

    def check_network_streams(self) -> None:
        """Raise unless the streams in ``network_streams`` exist and suit the networks that work together."""
        stage = self.stage
        for name, streams in stage.network_streams.items():
            at: KeyPath = ("network_streams", name)
            self.check_one_of(at, name, self.networks, "network")
            self.check_distinct(at, streams)
            for stream in streams:
                self.check_one_of(at, stream, stage.sources, "stream")
        if stage.network_streams and stage.joint:
            raise self.error(("network_streams",), "one pass over all streams shows a network all of them: leave out "
                "`joint` or `network_streams`.")
        for name, teacher in stage.teachers.items():
            if teacher.type == "EMA" and self.takes_teacher():
                streams = stage.network_streams.get(teacher.of, list(stage.sources))
                self.check_streams_of_network(("network_streams", name), name, streams)

    def takes_teacher(self) -> bool:
        """Return True if the fusion takes the map of a teacher."""
        return "teacher" in self.arguments_of_fusion()

    def arguments_of_fusion(self) -> Mapping[str, inspect.Parameter]:
        """Return the parameters of the ``forward`` of the stage's fusion."""
        entry = registry().find("fusion", self.stage.model.fusion["type"])
        return call_attributed(
            entry, "its forward", lambda fusion: inspect.signature(fusion.forward).parameters, entry.class_or_outline()
        )

    def check_memory(self, name: str, memory: MemorySlot) -> None:
        at: KeyPath = ("memories", name)
        self.check_name(at, name)
        self.check_network_names((*at, "network"), memory.network)
        self.check_feature((*at, "feature"), memory.feature)
        self.check_one_of((*at, "labels"), memory.labels, ["identity", *self.stage.labels], "labelling")
        labels = {name: stream.labels for name, stream in self.stage.sources.items()}
        updates = overrides_update(registry().find("memory", memory.memory["type"]).class_or_outline())
        if memory.labels not in labels.values():
            said = f"no stream is labelled by {memory.labels!r}"
            if all(term.labels != memory.labels for term in self.stage.objective):
                raise self.error((*at, "labels"), f"{said}, so this memory would stay empty.")
            if updates:
                takes = f"so {memory.memory['type']} would never be updated; terms with these labels do not update it."
                raise self.error((*at, "labels"), f"{said}, {takes}")
        self.check_distinct((*at, "stream"), memory.stream)
        if updates and not memory_streams(vars(memory), labels, self.stage.network_streams):
            raise self.error((*at, "network"), "no stream of its labels is seen by all of these (network_streams): this "
                "memory would never be updated.")
        for stream in names_in(memory.stream):
            self.check_one_of((*at, "stream"), stream, self.stage.sources, "stream")
            if self.stage.sources[stream].labels != memory.labels:
                self.check_matched_stream((*at, "stream"), stream, memory)
        for network in names_in(memory.network):
            self.check_streams_of_network((*at, "stream"), network, names_in(memory.stream))
        part, domain = Part("memory", memory.memory, (*at, "memory"), memory), self.domain_of_labels(memory.labels)
        self.check_named_inputs(part, domain)
        self.check_provided_names(part, domain)
        self.check_part_features("memory", memory.memory, {"features": memory.feature}, (*at, "feature"))

    def check_matched_stream(self, at: KeyPath, stream: str, memory: MemorySlot) -> None:
        """Raise unless a matcher gives the images of a stream labels of a memory's labelling that the memory can use."""
        source, name = self.stage.sources[stream], memory.memory["type"]
        fault = f"stream {stream!r} carries labels {source.labels!r}, the memory holds {memory.labels!r}"
        between = [slot.matcher for slot in self.stage.matching if set(slot.labellings) == {source.labels, memory.labels}]
        if not any(OTHER_LABELS in contract("matcher", matcher).provides for matcher in between):
            found = join_names(providing("matcher", {OTHER_LABELS}))
            raise self.error(
                at, f"{fault}. It may update the memory if a matching of both provides {OTHER_LABELS!r}. Installed matchers "
                f"that do: {found}."
            )
        component = registry().find("memory", name).class_or_outline()
        needed, optional = inputs_by_method("memory", component).get("update", (set(), set()))
        if hasattr(component, "images") or contract("memory", memory.memory).column_meaning or needed | optional:
            raise self.error(at, f"{fault}, and {name} is updated by more than labels: by positions or columns of its images.")


def _stage_of(reference: str | None) -> str | None:
    """Return the NAME of ``stage:NAME``; None for any other text."""
    return reference.removeprefix("stage:") if reference and reference.startswith("stage:") else None
