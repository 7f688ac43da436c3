"""Construction of a stage's parts from its config: networks, memories, objective, labellings."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reidx import distributed
from reidx.config.schema import Labelling, Stage, Teacher, names_in, term_names
from reidx.data.domains import Domains
from reidx.engine.objective import BoundAlignment, BoundTerm, Objective
from reidx.engine.step import StageModel
from reidx.labels.matching import LabelMatching
from reidx.labels.pipeline import LabellingPlan, LabelPipeline
from reidx.memories import Memory
from reidx.models.network import Network, build_network
from reidx.registry.build import build, contract
from reidx.registry.seam import checked_method
from reidx.runs import checkpoint as checkpoints


class Assembly:
    """Builder of the parts of ``stage``; ``resolve`` maps ``stage:NAME`` or a path to a checkpoint file."""

    def __init__(self, stage: Stage, domains: Domains, seed: int, resolve: Callable[[str], Path]) -> None:
        self.stage, self.domains, self.seed, self.resolve = stage, domains, seed, resolve

    def model(self) -> StageModel:
        """Build networks, memories and objective on the CPU, with their initial weights."""
        stage, size = self.stage, self.domains.size
        student = build_network(dataclasses.asdict(stage.model), size, domains=stage.domains)
        if stage.init is not None:
            checkpoints.load_weights(student, self.resolve(stage.init))
        networks = {"student": student}
        for name in in_order(stage.teachers):
            networks[name] = self._teacher(name, networks)
        networks = {name: networks[name] for name in ("student", *stage.teachers)}
        dims = student.dims
        memories: dict[str, Memory] = {}
        for name, slot in stage.memories.items():
            where = f"memories.{name}.memory"
            memories[name] = build("memory", slot.memory, where=where, dim=dims[slot.feature])
        return StageModel(
            networks,
            {name: dataclasses.asdict(teacher) for name, teacher in stage.teachers.items()},
            memories,
            {name: vars(slot) for name, slot in stage.memories.items()},
            Objective(self._terms(dims)),
            self._transforms(student),
            {name: stream.labels for name, stream in stage.sources.items()},
            joint=stage.joint,
            memory_format=torch.channels_last,
            grad_cache_chunks=stage.grad_cache_chunks,
            domains={name: s.domain for name, s in stage.sources.items()} if stage.model.domain_bn else None,
            network_streams=stage.network_streams,
        )

    def _teacher(self, name: str, networks: Mapping[str, Network]) -> Network:
        """Build a teacher: an EMA copies the network that it follows, a frozen network or a peer loads its own weights."""
        stage, teacher = self.stage, self.stage.teachers[name]
        if teacher.type == "EMA":
            return copy.deepcopy(networks[teacher.of])
        network = copy.deepcopy(networks["student"])
        if teacher.type == "Peer":  # layers without given weights are initialised differently from the student's
            network = build_network(dataclasses.asdict(stage.model), self.domains.size, domains=stage.domains)
        weights = teacher.weights if teacher.weights is not None else stage.init
        if weights is not None:
            checkpoints.load_weights(network, self.resolve(weights))
        return network

    def _terms(self, dims: Mapping[str, int]) -> list[BoundTerm | BoundAlignment]:
        terms: list[BoundTerm | BoundAlignment] = []
        names = iter(term_names(self.stage))
        for index, term in enumerate(self.stage.objective):
            loss: nn.Module = build("loss", term.loss, where=f"objective.{index}.loss")
            streams = self.stage.streams_of_term(term)
            target_memory = {
                stream: memory
                for stream in streams
                for memory in names_in(term.memory)
                if self.stage.memories[memory].labels == self.stage.labels_of(term, stream)
            }
            terms.append(BoundTerm(next(names), loss, {**vars(term), "stream": streams}, target_memory))
        for index, slot in enumerate(self.stage.alignment):
            context = {"dims": dict(dims), "steps": self.stage.epochs * self.stage.iters}
            alignment = build("alignment", slot.alignment, where=f"alignment.{index}.alignment", **context)
            terms.append(BoundAlignment(next(names), alignment, vars(slot)))
        return terms

    def _transforms(self, network: Network) -> dict[str, Callable[[Tensor], Tensor]]:
        """Build the transform from images to network input, for each stream and each view."""
        context = {
            "mean": network.mean,
            "std": network.std,
            "image_size": self.domains.size,
            "rank": distributed.rank(),
            "world_size": distributed.count(),
        }
        made = {}
        for name, stream in self.stage.streams.items():
            transform = build("transform", stream.transform, where=f"streams.{name}.transform", **context)
            made[name] = checked_method("transform", transform, "batch")
            for view, spec in stream.views.items():
                transform = build("transform", spec, where=f"streams.{name}.views.{view}", **context)
                made[view] = checked_method("transform", transform, "batch")
        return made

    def labellings(self, device: torch.device) -> dict[str, LabellingPlan]:
        """Build the label pipeline of each labelling."""
        plans, provided = {}, contract("fusion", self.stage.model.fusion).provides
        for name, labelling in self.stage.labels.items():
            where = f"labels.labellings.{name}"
            place = {"device": str(device), "sharded": distributed.count() > 1}
            distance = (
                build("distance", labelling.distance, where=f"{where}.distance", **place)
                if labelling.distance is not None
                else None
            )
            vary = partial(self._clusterer, labelling, f"{where}.clusterer")
            refiners = [build("refiner", spec, where=f"{where}.refiners", **place) for spec in labelling.refiners]
            pipeline = LabelPipeline(labelling.feature, distance, vary(), refiners, vary, provided)
            plans[name] = LabellingPlan(labelling, pipeline)
        return plans

    def matchings(self, device: torch.device) -> list[LabelMatching]:
        """Build the matchers, each with the names of its labellings."""
        made = []
        for index, slot in enumerate(self.stage.matching):
            context = {"device": str(device), "sharded": distributed.count() > 1, "labellings": slot.labellings}
            matcher = build("matcher", slot.matcher, where=f"matching.{index}.matcher", **context)
            made.append(LabelMatching(matcher, slot.labellings))
        return made

    def _clusterer(self, labelling: Labelling, where: str, **settings: Any) -> Any:
        return build("clusterer", {**labelling.clusterer, **settings}, where=where, seed=self.seed)


def in_order(teachers: Mapping[str, Teacher]) -> list[str]:
    """Names of the teachers, each EMA after the network that it follows."""
    order: list[str] = []
    while len(order) < len(teachers):
        order += [
            name
            for name, teacher in teachers.items()
            if name not in order and (teacher.type != "EMA" or teacher.of in ("student", *order))
        ]
    return order
