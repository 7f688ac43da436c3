"""Experiments of a combination of components: two tiny domains, a source with identities and a target to be clustered."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from reidx.checks.load import check_node
from reidx.config.config import Config
from reidx.config.node import Node, Origin
from reidx.contracts import INPUTS, inputs_of
from reidx.errors import ConfigError
from reidx.models.network import network_on
from reidx.registry.build import build
from reidx.testing.matrix.axes import AXES, Choice, losses
from reidx.testing.tiny import tiny_domain

IMAGE_SIZE = (96, 48)
"""Image size at which the coarsest family still has a map of three rows."""
BATCH = {"sampler": {"type": "PK", "identities": 4, "instances": 2}, "transform": {"type": "ReidAugment", "pad": 2}}
PLAIN = {"type": "LinearClassifier", "rows": "centroid"}
"""Memory of the loss that reads a refiner's additions, if the combination's own memory does not suit that loss."""
ORIGIN = "the matrix"


@dataclass(frozen=True)
class Combination:
    """One value of each axis, in the order of the axes."""

    choices: tuple[Choice, ...]

    def __getitem__(self, kind: str) -> Choice:
        return self.choices[AXES.index(kind)]

    def __str__(self) -> str:
        return "+".join(choice.label for choice in self.choices)


def config_of(combination: Combination, root: str = "nowhere") -> Config:
    """Return the checked experiment of a combination, with its domains in ``root``.

    Reads no image. The objective is the first of the possible ones (:func:`experiments`) that the contracts allow. Raises
    :class:`ConfigError` if none is allowed, with the error of the first (of those with a loss of the core, if any), or if the
    network cannot be built.
    """
    refused: list[tuple[bool, ConfigError]] = []
    for experiment in experiments(combination, root):
        try:
            config = check_node(Node.of(experiment, Origin(ORIGIN)), (), ORIGIN)
        except ConfigError as error:
            if not str(error).startswith(f"{ORIGIN}: stages.0.objective"):
                raise
            refused.append(("." in experiment["objective"][1]["loss"]["type"], error))
            continue
        _build(json.dumps(experiment["model"]))
        return config
    if not refused:
        raise ConfigError(f"{ORIGIN}: no installed loss reads memory {combination['memory']}.")
    raise min(refused, key=lambda one: one[0])[1]


@functools.cache
def _build(model: str) -> None:
    """Raise the errors of building a network, which the check of the config does not find."""
    section = {**json.loads(model), "freeze": []}
    backbone = copy.deepcopy(_backbone(json.dumps(section["backbone"])))
    network_on(backbone, section, IMAGE_SIZE, f"{ORIGIN}: stages.0.model")


@functools.cache
def _backbone(spec: str) -> nn.Module:
    """A backbone, which is built once for all fusions: its probes take most of the time of a search."""
    where = f"{ORIGIN}: stages.0.model.backbone"
    backbone: nn.Module = build("backbone", json.loads(spec), where=where, image_size=IMAGE_SIZE)
    return backbone


def experiments(combination: Combination, root: str) -> Iterator[dict[str, Any]]:
    """Yield possible experiments of a combination, as plain data, the best suited objective first: one epoch of two steps.

    A classifier learns the source's identities. The combination's memory, and a loss that reads it, learn the target's labels;
    another loss reads the additions of the refiner that the first does not read. A fusion with a teacher input has an EMA.
    """
    fusion, alignment, refiner = (combination[kind] for kind in ("fusion", "alignment", "refiner"))
    domains = {name: tiny_domain(root, name) for name in ("source", "target")}
    people = {"memory": "LinearClassifier", "labels": "identity"}
    for terms, memories in _objectives(combination):
        yield {
            "name": "matrix",
            "precision": "fp32",
            "data": {"image_size": list(IMAGE_SIZE), "domains": domains},
            "model": {"backbone": combination["backbone"].spec, "fusion": fusion.spec, "bn_group": 8},
            "teachers": {"mean": {"type": "EMA"}} if "teacher" in _arguments_of(fusion) else {},
            "streams": {
                "source": {"domain": "source", "labels": "identity", **BATCH},
                "target": {"domain": "target", "labels": "main", **BATCH},
            },
            "labels": {
                "domain": "target",
                "distance": {"type": "Jaccard", "k1": 8, "k2": 2},
                "clusterer": combination["clusterer"].spec,
                "refiners": _with_features_of(refiner, fusion),
            },
            "memories": {"people": people, **memories},
            "objective": [{"loss": {"type": "CrossEntropy"}, "stream": "source", "memory": "people"}, *terms],
            "alignment": [{"alignment": spec} for spec in _with_features_of(alignment, fusion)],
            "evaluate": {"domain": "target"},
            "stages": [{"name": "adapt", "epochs": 1, "iters": 2}],
            "log": [],
        }


Objective = tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]
"""Terms on the target, and memories by name."""


def _objectives(combination: Combination) -> Iterator[Objective]:
    """Yield objectives for the memory: each loss that reads it, with each loss for the refiner's additions, then without."""
    memory, refiner = combination["memory"], combination["refiner"]
    parts = sorted(combination["fusion"].contract.part_features)
    held = parts[0] if parts and memory.contract.requires_parts else "embed"
    features = {"memory": memory.spec, "feature": held}
    for loss in _losses_reading(memory, refiner):
        own = _term(loss, held, "bank")
        left = refiner.contract.provides - set().union(*inputs_of(loss.component))
        for other in _losses_requiring(left, memory, refiner):
            on = parts[0] if parts and "scores" in other.contract.requires_parts else "embed"
            yield [own, _term(other, held, "bank")], {"bank": features}
            yield [own, _term(other, on, "rows")], {"bank": features, "rows": {"memory": PLAIN, "feature": on}}
        yield [own], {"bank": features}


@functools.cache
def _losses_reading(memory: Choice, refiner: Choice) -> list[Choice]:
    """Return the losses that read a memory and whose inputs are all available, those designed for it first.

    A loss is taken as designed for a memory if it reads the memory's additions, its meaning of columns, or is of its plugin.
    """
    given = {"features", "targets", "scores", "cameras", "index"} | memory.contract.provides | refiner.contract.provides

    def reads(loss: Choice) -> bool:
        needed, _ = inputs_of(loss.component)
        return needed <= given and bool(needed & {"scores", *memory.contract.provides})

    def unlike(loss: Choice) -> tuple[bool, ...]:
        needed, _ = inputs_of(loss.component)
        return (
            bool(memory.contract.provides) and not needed & memory.contract.provides,
            loss.contract.column_meaning != memory.contract.column_meaning,
            loss.namespace != memory.namespace,
        )

    return sorted(filter(reads, losses()), key=unlike)


def _losses_requiring(names: frozenset[str], memory: Choice, refiner: Choice) -> Iterator[Choice]:
    """Yield the losses that require at least one of the inputs ``names`` and whose inputs are all available."""
    given = set(INPUTS) - {"teacher", "teacher_scores"} | memory.contract.provides | refiner.contract.provides
    for loss in losses():
        needed, _ = inputs_of(loss.component)
        if needed & names and needed <= given:
            yield loss


def _term(loss: Choice, on: str, memory: str) -> dict[str, Any]:
    return {"loss": loss.spec, "stream": "target", "feature": on, "memory": memory}


def _arguments_of(fusion: Choice) -> set[str]:
    return set().union(*inputs_of(fusion.component))


def _with_features_of(part: Choice, fusion: Choice) -> list[dict[str, Any]]:
    """Return a list of the alignment or refiner, if any, with its feature arguments set to features of the fusion.

    The argument ``feature`` names a feature, ``parts`` a part feature. Values that the fusion does not provide are replaced by
    ``embed`` and by the first part feature.
    """
    if part.entry is None:
        return []
    spec = dict(part.spec)
    for argument, others in (("feature", ["embed"]), ("parts", sorted(fusion.contract.part_features))):
        own = part.argument(argument)
        if isinstance(own, str) and own not in fusion.contract.provides and others:
            spec[argument] = others[0]
    return [spec]
