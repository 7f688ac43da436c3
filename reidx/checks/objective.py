"""Checks of a stage's terms and alignments against its streams, labellings and memories."""

from __future__ import annotations

from reidx.checks.base import StageChecker, declaring, join_names, providing
from reidx.config.node import KeyPath
from reidx.config.parts import Part, parts_of
from reidx.config.schema import AlignmentSlot, Labelling, Ramp, Term, names_in
from reidx.contracts import INPUTS, Contract, inputs_of
from reidx.registry.build import contract
from reidx.registry.discovery import registry
from reidx.registry.registry import KINDS
from reidx.registry.seam import call_attributed

LABEL_MAKERS = [name for name, kind in KINDS.items() if kind.results.get("__call__") == "labels"]
"""Kinds of components that compute labels from features."""


def label_maker(labelling: Labelling) -> Part:
    """Return the component that computes the labels of a labelling."""
    return next(part for part in parts_of(labelling) if part.kind in LABEL_MAKERS)


class ObjectiveChecker(StageChecker):
    """Checker of a stage's terms and alignments."""

    def check_term(self, index: int, term: Term) -> None:
        at: KeyPath = ("objective", index)
        entry = registry().find("loss", term.loss["type"])
        loss = entry.class_or_outline()
        streams = self.streams_of(at, term)
        trained = ["student", *(n for n, t in self.stage.teachers.items() if t.type == "Peer")]
        self.check_networks_and_streams(at, term, streams)
        self.check_one_of((*at, "network"), term.network, trained, "network that is trained")
        self.check_labelled(at, term, streams)
        self.check_one_of((*at, "teacher"), term.teacher, self.networks, "network")
        for key in ("feature", "teacher_feature"):
            if (name := getattr(term, key)) is not None:
                self.check_feature((*at, key), name)
        memories = names_in(term.memory)
        for key in ("stream", "memory", "teacher_memory", "teacher_stream"):
            self.check_distinct((*at, key), getattr(term, key))
        for key in ("memory", "teacher_memory"):
            for name in names_in(getattr(term, key)):
                self.check_one_of((*at, key), name, self.stage.memories, "memory")
        held, taught = (
            [self.stage.memories[name].labels for name in names_in(names)] for names in (term.memory, term.teacher_memory)
        )
        if held and taught and held != taught:
            raise self.error(
                (*at, "teacher_memory"),
                f"it holds labels {', '.join(taught)}, but memory holds {', '.join(held)}: "
                "their scores have different classes.",
            )
        if term.until_epoch is not None and term.until_epoch <= term.from_epoch:
            raise self.error((*at, "until_epoch"), f"the term ends before it begins (from_epoch {term.from_epoch}).")
        self.check_weight(at, term.weight)
        needed, optional = call_attributed(entry, "its forward", inputs_of, loss)
        if "scores" in needed and not memories:
            raise self.error(at, f"{term.loss['type']} compares with a memory: name it (memory: NAME).")
        if "teacher_scores" in needed and not (memories or term.teacher_memory):
            raise self.error(at, f"{term.loss['type']} needs a teacher's scores: name their memory (teacher_memory: NAME).")
        if needed & {"teacher", "teacher_scores"} and term.teacher is None:
            raise self.error(at, f"{term.loss['type']} compares with a teacher: name it (teacher: NAME).")
        self.check_comparable(at, term, streams, needed | optional)
        other = term.teacher_feature or term.feature
        made = {"features": term.feature, "scores": term.feature, "teacher": other, "teacher_scores": other}
        self.check_part_features("loss", term.loss, {name: of for name, of in made.items() if name in needed}, at)
        for stream in streams:
            labels = self.stage.labels_of(term, stream)
            if memories and "targets" in needed | optional:
                self.check_one_memory_of_labels(at, term, stream)
            if "targets" in needed and labels is None:
                raise self.error(at, f"{term.loss['type']} needs labels, but stream {stream!r} has none.")
            if "targets" in needed and labels in self.stage.labels:
                self.check_no_outliers(at, term, stream, self.stage.labels[labels])
            if "soft_targets" in needed and (labels is None or labels == "identity"):
                raise self.error(at, f"{term.loss['type']} needs soft targets, which a refiner or a matcher gives.")
            for name in sorted((needed - set(INPUTS)) | (needed & {"weights", "soft_targets"})):
                self.check_provided_input(at, term, stream, name)
        for name in memories if "scores" in needed | optional else []:
            self.check_columns(at, term, name, "targets" in needed)

    def check_weight(self, at: KeyPath, weight: float | Ramp) -> None:
        """Raise for a ramp that never changes the weight."""
        if isinstance(weight, Ramp) and weight.from_ == weight.to:
            raise self.error(
                (*at, "weight"),
                f"it goes from {weight.from_:g} to {weight.to:g}, so it never changes: write weight: {weight.to:g}, or other "
                "values of from and to.",
            )

    def check_networks_and_streams(self, at: KeyPath, term: Term, streams: list[str]) -> None:
        """Raise unless both networks of a term get its images; the teacher may get another view of them."""
        sources = self.stage.sources
        others = names_in(term.teacher_stream) or streams
        for name in others:
            self.check_one_of((*at, "teacher_stream"), name, sources, "stream")
        if term.teacher_stream is not None and term.teacher is None:
            raise self.error((*at, "teacher_stream"), "a teacher's stream needs a teacher: name it (teacher: NAME).")
        if [sources[name] is sources[other] for name, other in zip(streams, others)] != [True] * max(len(streams), len(others)):
            raise self.error(
                (*at, "teacher_stream"),
                f"{', '.join(others)} does not show the images of {', '.join(streams)}: name one view of the same stream for "
                "each.",
            )
        self.check_streams_of_network((*at, "stream"), term.network, streams)
        if term.teacher is not None:
            self.check_streams_of_network((*at, "teacher_stream"), term.teacher, others)

    def check_comparable(self, at: KeyPath, term: Term, streams: list[str], inputs: set[str]) -> None:
        """Raise if inputs of a loss from several streams or memories use different numberings."""
        labels = {self.stage.labels_of(term, stream) for stream in streams}
        domains = {self.stage.sources[stream].domain for stream in streams}
        if "targets" in inputs and len(labels) > 1 and not term.memory:
            raise self.error(
                at, f"{term.loss['type']} would compare labels of different labellings; write a term for each stream, or use "
                "memories."
            )
        for name in sorted(inputs & {"index", "cameras", *(c for domain in domains for c in self.columns_of(domain))}):
            if len(domains) > 1:
                raise self.error(at, f"{term.loss['type']} reads {name!r}, which counts from 0 in each domain: write a term "
                    "for each.")
        soft = {any("soft_targets" in part.provides for part in self.contracts_of(of)) for of in labels}
        if "soft_targets" in inputs and True in soft and (len(soft) > 1 or len(names_in(term.memory)) > 1):
            raise self.error(
                at, f"{term.loss['type']} would mix soft targets of one labelling with labels of others: "
                "write a term for each."
            )

    def check_labelled(self, at: KeyPath, term: Term, streams: list[str]) -> None:
        """Raise unless the labelling named by a term covers the images of its streams."""
        if term.labels is None:
            return
        self.check_one_of((*at, "labels"), term.labels, self.stage.labels, "labelling")
        domain = self.stage.labels[term.labels].domain
        for stream in streams:
            if self.stage.sources[stream].domain != domain:
                raise self.error(
                    (*at, "labels"),
                    f"labelling {term.labels!r} is of domain {domain!r}, but stream {stream!r} draws from "
                    f"{self.stage.sources[stream].domain!r}.",
                )

    def check_columns(self, at: KeyPath, term: Term, memory: str, targets: bool) -> None:
        """Raise unless loss, memory and targets agree on the meaning of a column of scores."""
        spec = self.stage.memories[memory]
        read, held = contract("loss", term.loss).column_meaning, contract("memory", spec.memory).column_meaning
        level = self.stage.labels.get(spec.labels)
        maker = None if level is None else label_maker(level)
        by = "identities" if maker is None else f"the clusters of {maker.name}"
        given = "" if maker is None else contract(maker.kind, maker.spec).column_meaning
        if (read or given) == (held or given) or not (read or targets):
            return
        if held == "images" and not read:
            numbering = join_names(
                entry for kind in LABEL_MAKERS for entry in declaring(kind, lambda offered: offered.column_meaning == "images")
            )
            raise self.error(
                at, f"memory {memory!r} ({spec.memory['type']}) has a column for each image, but labels {spec.labels!r}, which "
                f"{term.loss['type']} finds its targets by, are {by}. Clusterers that number images: {numbering}."
            )
        fitting = join_names(declaring("memory", lambda offered: offered.column_meaning == read))
        losses = (entry for entry in declaring("loss", lambda offered: offered.column_meaning == held))
        others = join_names(entry for entry in losses if "scores" in inputs_of(entry.class_or_outline())[0])
        read, held = read or "labels", held or "labels"
        raise self.error(
            at, f"{term.loss['type']} reads columns of scores as {read}, those of memory {memory!r} "
            f"({spec.memory['type']}) are {held}. Installed memories of {read}: {fitting}; losses for {held}: {others}."
        )

    def contracts_of(self, labels: str | None) -> list[Contract]:
        """Return the contracts of the components that make a labelling, its matchers included, in order."""
        level = self.stage.labels.get(labels or "")
        made = [contract(part.kind, part.spec) for part in (parts_of(level) if level else ())]
        return made + [contract("matcher", slot.matcher) for slot in self.stage.matching if labels in slot.labellings]

    def check_one_memory_of_labels(self, at: KeyPath, term: Term, stream: str) -> None:
        """Raise unless exactly one of a term's memories holds the labels of a stream."""
        labels = self.stage.labels_of(term, stream)
        held: dict[str, str | None] = {name: self.stage.memories[name].labels for name in names_in(term.memory)}
        if list(held.values()).count(labels) != 1:
            said = ", ".join(f"memory {name!r} holds labels {of!r}" for name, of in held.items())
            wanted = "" if len(held) == 1 else "; exactly one of them must hold these"
            looked_at = f"the term's labels are {labels!r}" if term.labels else f"stream {stream!r} carries {labels!r}"
            raise self.error((*at, "memory"), f"{said}, {looked_at}{wanted}.")

    def check_provided_input(self, at: KeyPath, term: Term, stream: str, name: str) -> None:
        """Raise unless a refiner or matcher of a stream's labels, a memory of the term or the data set provides an input."""
        columns = self.columns_of(self.stage.sources[stream].domain)
        if name in columns:
            return
        given = self.contracts_of(self.stage.labels_of(term, stream))
        given += [contract("memory", self.stage.memories[m].memory) for m in names_in(term.memory)]
        if any(name in part.provides for part in given):
            return
        offers = [entry.name for kind in ("refiner", "matcher", "memory") for entry in providing(kind, {name})]
        if not offers:
            entry = registry().find("loss", term.loss["type"])
            known = [*INPUTS, *sorted(frozenset[str]().union(*(part.provides for part in given)) - set(INPUTS)), *columns]
            raise self.unknown_input(Part("loss", term.loss, at, term), entry, "forward", name, known)
        raise self.error(
            at, f"{term.loss['type']} needs {name!r}, which no refiner or matcher of stream {stream!r} and no memory of the "
            f"term provides. Installed that do: {', '.join(offers)}."
        )

    def check_no_outliers(self, at: KeyPath, term: Term, stream: str, level: Labelling) -> None:
        """Raise if outliers (label −1) would reach a loss that has no target for them."""
        sampler = self.stage.sources[stream].sampler
        memories = [self.stage.memories[name] for name in names_in(term.memory)]
        left_over = False
        for made in self.contracts_of(self.stage.labels_of(term, stream)):
            left_over = (left_over or made.outliers == "emits") and made.outliers != "never"
        kept = any(contract("memory", memory.memory).outliers == "keep" for memory in memories)
        # a sampler can leave out only the outliers of its stream's labelling
        other = term.labels not in (None, self.stage.sources[stream].labels)
        drawn = other or contract("sampler", sampler).outliers != "drop"
        if left_over and not kept and drawn:
            how = f"a stream with the labels {term.labels!r}" if other else "PK"
            raise self.error(
                at,
                f"{term.loss['type']} has no target for outliers (label −1), which {label_maker(level).name} leaves and "
                f"sampler {sampler['type']} of stream {stream!r} draws. Use {how}, or a clusterer that leaves none.",
            )

    def streams_of(self, at: KeyPath, term: Term) -> list[str]:
        """Return the streams of a term: those it names, or the only one."""
        sources = self.stage.sources
        for name in names_in(term.stream):
            self.check_one_of((*at, "stream"), name, sources, "stream")
        if not term.stream and len(sources) != 1:
            raise self.error(at, f"name its stream (stream: {' or '.join(sources) or 'none here'}).")
        return self.stage.streams_of_term(term)

    def check_alignment(self, index: int, alignment: AlignmentSlot) -> None:
        at: KeyPath = ("alignment", index)
        if alignment.source == alignment.target:
            raise self.error(at, f"source and target are both {alignment.source!r}: there is nothing to align.")
        for side in ("source", "target"):
            self.check_one_of((*at, side), getattr(alignment, side), self.stage.sources, "stream")
            self.check_streams_of_network((*at, side), "student", [getattr(alignment, side)])
        self.check_weight(at, alignment.weight)
        self.check_required_features(Part("alignment", alignment.alignment, at, alignment))
