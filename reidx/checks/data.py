"""What only the data and the files can tell, asked for every stage before the first one trains.

A folder that is missing for the last stage must not show after the days that the first one took.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reidx.checks.base import contract
from reidx.config.config import Config
from reidx.config.node import KeyPath, dotted
from reidx.config.schema import IDENTITY, MemoryWiring, Stage
from reidx.contracts import inputs_of
from reidx.data.domains import Domains
from reidx.errors import ConfigError, DataError
from reidx.evaluation.protocols import counted, matched, no_match
from reidx.registry.build import build
from reidx.registry.discovery import registry


def check_experiment(config: Config, domains: Domains) -> None:
    """Raise :class:`ConfigError` or :class:`DataError` at the first thing a stage will miss: a file, images, ids, cameras.

    Reads the data sets that the stages use (lists of files, no images).
    """
    said: set[str] = set()
    for position, stage in enumerate(config.experiment.stages):
        check = _DataChecker(config, domains, position, said)
        check.files(stage)
        if stage.epochs > 0:
            check.training(stage)
        check.evaluation(stage)


def check_evaluation(config: Config, domains: Domains, position: int) -> None:
    """As :func:`check_experiment`, for what the evaluation of one stage needs."""
    stage, check = config.experiment.stages[position], _DataChecker(config, domains, position)
    check.files(stage)
    check.evaluation(stage)


class _DataChecker:
    def __init__(self, config: Config, domains: Domains, position: int, said: set[str] | None = None) -> None:
        self.config, self.domains, self.base = config, domains, ("stages", position)
        self.said = set() if said is None else said

    def files(self, stage: Stage) -> None:
        self.file(("init",), stage.init)
        for name, teacher in stage.teachers.items():
            self.file(("teachers", name, "weights"), teacher.weights)

    def training(self, stage: Stage) -> None:
        for name, stream in stage.streams.items():
            at: KeyPath = ("streams", name)
            self.images(at, stream.domain, "train")
            if self.domains.on_device:
                self.domains.images(stream.domain, "train")  # refuses what does not fit; nothing is read yet
            if stream.labels == IDENTITY and self.domains.split(stream.domain, "train").ids is None:
                raise DataError(
                    f"{self.where((*at, 'labels'))}: domain {stream.domain!r} has no identities; label it by clustering "
                    "(a level of labels), or by none."
                )
            self.cameras((*at, "sampler"), "sampler", stream.sampler, stream.domain)
            for memory, spec in stage.memories.items():
                if spec["labels"] == stream.labels:
                    self.cameras(("memories", memory), "memory", spec, stream.domain, wiring=MemoryWiring)
        for name, level in stage.labels.items():
            at = ("labels", "levels", name)
            assert level.domain is not None
            self.images(at, level.domain, "train")
            self.cameras((*at, "clusterer"), "clusterer", level.clusterer, level.domain)
            if level.distance is not None:
                self.cameras((*at, "distance"), "distance", level.distance, level.domain)
            for index, refiner in enumerate(level.refiners):
                self.cameras((*at, "refiners", index), "refiner", refiner, level.domain)
        for index, term in enumerate(stage.objective):
            needed, _ = inputs_of(registry().find("loss", term["loss"]).declared())
            for domain in dict.fromkeys(stage.sources[name].domain for name in stage.seen_by(term)):
                if "cameras" in needed and not self.has_cameras(domain, "train"):
                    raise self.no_cameras(("objective", index), term["loss"], domain)

    def evaluation(self, stage: Stage) -> None:
        settings, domain = stage.evaluate, stage.evaluate.domain
        if domain is None:
            return
        at: KeyPath = ("evaluate",)
        for split in ("query", "gallery"):
            self.images(at, domain, split)
            self.cameras((*at, "protocol"), "protocol", settings.protocol, domain, split)
        query, gallery = (self.domains.split(domain, split) for split in ("query", "gallery"))
        if query.ids is None or gallery.ids is None:
            raise DataError(f"{self.where(at)}: domain {domain!r} does not say who is on its query and gallery images.")
        known = query.ids, gallery.ids, query.cameras, gallery.cameras
        protocol = build("protocol", settings.protocol, where=self.where((*at, "protocol")))
        own = self.domains.own_images(domain)
        found = matched(protocol, *known, own)
        if not found.any():
            raise DataError(f"{self.where(at)}: domain {domain!r}: {no_match(protocol, *known, own)}")
        if lost := len(found) - int(found.sum()):
            self.say(
                f"{domain}: {lost:,} of {len(found):,} queries have no match in the gallery that counts under protocol "
                f"{protocol.name}; they are left out of mAP, mINP and rank-k"
            )
        if alike := len(np.unique(counted(protocol, *known, own)[:, 0])):
            self.say(
                f"{domain}: {alike:,} of {len(found):,} queries are gallery images, too (the same file); an image is not its "
                "own match and is left out of the ranking of that query"
            )

    def say(self, line: str) -> None:
        """Say what is no fault but a surprise; of several stages once."""
        if line not in self.said:
            self.said.add(line)
            self.domains.say(line)

    # ---- what is asked again and again

    def file(self, at: KeyPath, reference: str | None) -> None:
        if reference is None or reference.startswith("stage:") or Path(reference).expanduser().is_file():
            return
        raise ConfigError(
            f"{self.where(at)}: there is no file {reference} (seen from {Path.cwd()}). Give a checkpoint, or stage:NAME."
        )

    def images(self, at: KeyPath, domain: str, split: str) -> None:
        if not len(self.domains.split(domain, split)):
            raise DataError(f"{self.where(at)}: domain {domain!r} has no {split} images.")

    def cameras(
        self,
        at: KeyPath,
        kind: str,
        spec: Mapping[str, Any],
        domain: str,
        split: str = "train",
        wiring: type | None = None,
    ) -> None:
        if contract(kind, dict(spec), wiring).cameras == "required" and not self.has_cameras(domain, split):
            raise self.no_cameras(at, spec["type"], domain)

    def has_cameras(self, domain: str, split: str) -> bool:
        return bool((self.domains.split(domain, split).cameras >= 0).any())

    def no_cameras(self, at: KeyPath, name: str, domain: str) -> DataError:
        hint = " For evaluation without cameras, set protocol: NoCameraFilter." if "protocol" in at else ""
        return DataError(
            f"{self.where(at)}: {name} needs to know the cameras, but domain {domain!r} has none.{hint}"
        )

    def where(self, at: KeyPath) -> str:
        path = (*self.base, *at)
        return f"{self.config.place(path)}: {dotted(path)}"
