"""Checks of data and files for all stages, before the first one trains.

A missing folder of the last stage must not surface only after the first stage has trained for days.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reidx.config.config import Config
from reidx.config.node import KeyPath, dotted
from reidx.config.parts import Part, parts_of
from reidx.config.schema import IDENTITY, AlignmentSlot, Evaluate, MatchingSlot, MemorySlot, Spec, Stage, Term
from reidx.contracts import camera_inputs, inputs_of_kind
from reidx.data.domains import Domains
from reidx.errors import ConfigError, DataError
from reidx.evaluation.groups import Entries
from reidx.evaluation.matches import has_match, no_match, own_matches
from reidx.evaluation.protocols import drawn_trials, ignored, in_trial, measured
from reidx.machine.free_memory import free_memory
from reidx.registry.build import build, contract
from reidx.registry.discovery import registry
from reidx.registry.seam import call, full_checks


def check_experiment(config: Config, domains: Domains) -> None:
    """Raise :class:`ConfigError` or :class:`DataError` for the first missing file, image, identity or camera of any stage.

    Reads the data sets of the stages (lists of files, no images).
    """
    warned: set[str] = set()
    for position, stage in enumerate(config.experiment.stages):
        checker = _DataChecker(config, domains, position, warned)
        checker.check_files(stage)
        if stage.epochs > 0:
            checker.check_training(stage)
        checker.check_evaluation(stage)


def without_missing_tests(config: Config, domains: Domains) -> Config:
    """Return the experiment without the tests on data for training alone that a shipped config asks for.

    Such a domain has neither query nor gallery images, and the user chose the data, not the test. A message says so.
    """
    stages = []
    for position, stage in enumerate(config.experiment.stages):
        domain, asked = stage.evaluate.domain, config.tree.origin(("stages", position, "evaluate", "domain"))
        if domain is not None and "::" in asked.source and not any(len(domains.split(domain, s)) for s in ("query", "gallery")):
            ends = "ends with its clusters" if stage.labels else "is not evaluated"
            domains.message(f"{domain} has no query and gallery images: stage {stage.name} {ends}")
            stages.append(replace(stage, evaluate=replace(stage.evaluate, domain=None, domain_probe=None)))
        else:
            stages.append(stage)
    return replace(config, experiment=replace(config.experiment, stages=stages))


def check_evaluation(config: Config, domains: Domains, position: int, stage: Stage) -> None:
    """Check the files and data for the evaluation of ``stage`` at ``position``, as :func:`check_experiment` does."""
    checker = _DataChecker(config, domains, position)
    checker.check_files(stage)
    checker.check_evaluation(stage)


def splits_of(stage: Stage, part: Part) -> list[tuple[str, str]]:
    """Return the (domain, split) pairs whose images a component of a stage processes."""
    holder, streams = part.holder, stage.sources
    if isinstance(holder, Evaluate):
        return [(holder.domain, split) for split in ("query", "gallery")] if holder.domain is not None else []
    if isinstance(holder, MemorySlot):
        names = [name for name, stream in stage.streams.items() if stream.labels == holder.labels]
    elif isinstance(holder, MatchingSlot):
        return [(stage.labels[name].domain or "", "train") for name in holder.labellings]
    elif isinstance(holder, Term):
        names = stage.streams_of_term(holder)
    elif isinstance(holder, AlignmentSlot):
        names = [holder.source, holder.target]
    else:  # a stream or a labelling; a model processes all domains
        domain = getattr(holder, "domain", None)
        labelled = (level.domain for level in stage.labels.values() if level.domain is not None)
        return [(name, "train") for name in ([domain] if domain is not None else dict.fromkeys((*stage.domains, *labelled)))]
    return [(domain, "train") for domain in dict.fromkeys(streams[name].domain for name in names)]


class _DataChecker:
    def __init__(self, config: Config, domains: Domains, position: int, warned: set[str] | None = None) -> None:
        self.config, self.domains, self.base = config, domains, ("stages", position)
        self.warned = set() if warned is None else warned

    def check_files(self, stage: Stage) -> None:
        self.check_file(("init",), stage.init)
        for name, teacher in stage.teachers.items():
            self.check_file(("teachers", name, "weights"), teacher.weights)

    def check_training(self, stage: Stage) -> None:
        for name, stream in stage.streams.items():
            at: KeyPath = ("streams", name)
            self.check_images(at, stream.domain, "train")
            if self.domains.on_device:
                self.domains.images(stream.domain, "train")  # raises if they do not fit; reads no image yet
            if stream.labels == IDENTITY and self.domains.split(stream.domain, "train").ids is None:
                raise DataError(
                    f"{self.where((*at, 'labels'))}: domain {stream.domain!r} has no identities; label it by clustering "
                    "(labels), or set its labels to null."
                )
        for name, level in stage.labels.items():
            assert level.domain is not None
            self.check_images(("labels", "labellings", name), level.domain, "train")
            if level.monitor and self.domains.split(level.domain, "train").ids is None:
                self.warn_once(f"{level.domain}: no identities are known, so labels.monitor compares nothing")
            if level.save and importlib.util.find_spec("pyarrow") is None:
                where = self.where(("labels", "labellings", name, "save"))
                raise ConfigError(f"{where}: saving labels needs pyarrow: pip install 'reidx[parquet]'. Or remove `save`.")
        for part in parts_of(stage):
            if not isinstance(part.holder, Evaluate):
                self.check_cameras(part, splits_of(stage, part))

    def check_evaluation(self, stage: Stage) -> None:
        settings, domain = stage.evaluate, stage.evaluate.domain
        if domain is None:
            return
        at: KeyPath = ("evaluate",)
        for split in ("query", "gallery"):
            self.check_images(at, domain, split)
        for part in parts_of(settings, at):
            self.check_cameras(part, splits_of(stage, part))
        for part in parts_of(stage.model, ("model",)):
            self.check_cameras(part, [(domain, split) for split in ("query", "gallery")])
        query, gallery = (self.domains.split(domain, split) for split in ("query", "gallery"))
        if query.ids is None or gallery.ids is None:
            raise DataError(f"{self.where(at)}: domain {domain!r} has no identities for its query and gallery images.")
        known = query.ids, gallery.ids, query.cameras, gallery.cameras
        where = self.where((*at, "protocol"))
        protocol = build("protocol", settings.protocol, where=where)
        same, further = self.domains.own_images(domain), (query.columns, gallery.columns)
        entries = Entries.of(protocol, known, same, further, f"{where}: domain {domain!r}")
        whole = entries.known, entries.own, entries.columns
        with full_checks():
            drawn = drawn_trials(protocol, whole[0], whole[2])
        entries.require_one_trial(drawn, where, protocol.name)
        rankings = [whole] if drawn is None else [in_trial(trial, *whole) for trial in drawn]
        lost, alike = [], []
        for number, (known, own, columns) in enumerate(rankings, 1):
            found = has_match(protocol, known, own, columns)
            if not found.any():
                trial = "" if drawn is None else f" This is trial {number} of {len(drawn)}."
                raise DataError(f"{self.where(at)}: domain {domain!r}: {no_match(protocol, known, own, columns)}{trial}")
            lost.append((int((~found).sum()), len(found)))
            alike.append((len(np.unique(own_matches(protocol, known, own, columns)[:, 0])), len(found)))
        if getattr(protocol, "metrics", ()):
            few, (known, _, columns) = slice(0, 8), rankings[0]  # on invented distances, before an image is read
            skip = ignored(protocol, known, few, slice(None), columns)
            with full_checks():
                measured(protocol, np.random.default_rng(0).random(skip.shape), skip, known, few, columns)
        if settings.rerank is not None:
            images = len(gallery) if entries.nearest else 0
            largest = max(((len(known[0]), images or len(known[1])) for known, _, _ in rankings), key=sum)
            self.check_memory_to_rerank(settings.rerank, *largest)
        if max(lost)[0] and not getattr(protocol, "open_set", False):
            self.warn_once(
                f"{domain}: {_most(lost)} have no match in the gallery that counts under protocol {protocol.name}; they are "
                "left out of mAP, mINP and rank-k"
            )
        if max(alike)[0]:
            self.warn_once(
                f"{domain}: {_most(alike)} are gallery images, too (the same file); an image is not its own match and is left "
                "out of the ranking of that query"
            )

    def check_memory_to_rerank(self, spec: Spec, queries: int, gallery: int) -> None:
        """Raise :class:`ConfigError` where re-ranking may take more memory than is free."""
        where = self.where(("evaluate", "rerank"))
        reranker = build("reranker", spec, where=where)
        if not hasattr(reranker, "bytes_needed"):
            return
        needed = call("reranker", reranker, "bytes_needed", reranker.bytes_needed, queries + gallery)
        if needed > (free := free_memory()):
            given = "".join(f", {key} {value}" for key, value in spec.items() if key != "type")
            raise ConfigError(
                f"{where}: re-ranking {queries:,} queries and {gallery:,} gallery images ({spec['type']}{given}) may take "
                f"{needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free. Shorten its lists of neighbours, or set "
                "evaluate.rerank: null and re-rank later, with reidx test --rerank on a machine with more memory."
            )

    def warn_once(self, line: str) -> None:
        """Print a warning, once for all stages."""
        if line not in self.warned:
            self.warned.add(line)
            self.domains.message(line)

    # ---- helpers

    def check_file(self, at: KeyPath, reference: str | None) -> None:
        if reference is None or reference.startswith("stage:") or Path(reference).expanduser().is_file():
            return
        raise ConfigError(
            f"{self.where(at)}: there is no file {reference} (relative to {Path.cwd()}). Give a checkpoint, or stage:NAME."
        )

    def check_images(self, at: KeyPath, domain: str, split: str) -> None:
        if len(self.domains.split(domain, split)):
            return
        hint = ""
        if split != "train":
            hint = " Set evaluate.domain: null to train without an evaluation."
        elif len(self.domains.split(domain, "query")):
            hint = f" {self.domains[domain].name} is test-only: train on another domain, and evaluate on this one."
        raise DataError(f"{self.where(at)}: domain {domain!r} has no {split} images.{hint}")

    def check_cameras(self, part: Part, splits: Sequence[tuple[str, str]]) -> None:
        """Raise if a component needs cameras and an image of the given (domain, split) pairs has none.

        A protocol needs no cameras of gallery images of other people than those of the queries, such as distractors.
        """
        needed, _ = inputs_of_kind(part.kind, registry().find(part.kind, part.name).class_or_outline())
        required = bool(camera_inputs(part.kind) & needed) or contract(part.kind, part.spec).cameras == "required"
        for domain, split in splits if required else []:
            images = self.domains.split(domain, split)
            unknown = images.cameras < 0
            people = self.domains.split(domain, "query").ids if part.kind == "protocol" and split == "gallery" else None
            if people is not None and images.ids is not None and not unknown.all():
                unknown &= np.isin(images.ids, people)
            if unknown.any():
                lacking = "" if unknown.all() else f"{int(unknown.sum()):,} of {len(images):,} {split} images of "
                raise self.no_cameras(part.path, part.name, domain, lacking)

    def no_cameras(self, at: KeyPath, name: str, domain: str, lacking: str) -> DataError:
        """Return the error for images without a camera: ``lacking`` counts those of the domain, "" for all."""
        hints = {
            "protocol": " For evaluation without cameras, set protocol: NoCameraFilter.",
            "sampler": " Set sampler: PK, or Shuffle, which need none.",
        }
        hint = (hints | {"rerank": " Set rerank: null, or rerank: KReciprocal."}).get(str(at[-1]), "")
        found = f"{lacking}domain {domain!r} have none (-1). Give each a camera, or leave it out." if lacking else (
            f"domain {domain!r} has none."
        )
        return DataError(f"{self.where(at)}: {name} needs to know the cameras, but {found}{hint}")

    def where(self, at: KeyPath) -> str:
        path = (*self.base, *at)
        return f"{self.config.place(path)}: {dotted(path)}"


def _most(counts: list[tuple[int, int]]) -> str:
    """The largest share of the queries of a ranking, of several if a protocol has trials."""
    some, all_ = max(counts)
    return f"{some:,} of {all_:,} queries" if len(counts) == 1 else f"in a trial up to {some:,} of {all_:,} queries"
