"""Key of a stage: a hash of everything that determines its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reidx.config.config import Config
from reidx.config.node import KeyPath, dotted
from reidx.config.schema import Stage
from reidx.config.yaml_tree import tree_hash
from reidx.machine.devices import device_of_this_process
from reidx.runs.manifest import WITHOUT_EFFECT, namespaces
from reidx.runs.named_files import by_content, digests_of


def stage_facts(config: Config, number: int) -> dict[str, Any]:
    """Parts of a config that determine the outcome of stage ``number`` (from 0): its own keys, its position, the seed, its
    domains, and the same for each stage that it starts from."""
    experiment, stage = config.experiment, config.experiment.stages[number]
    domains = {name: config.data["data"]["domains"][name] for name in sorted(_domains(stage))}
    return {
        "number": number,
        "seed": experiment.seed,
        "stage": config.data["stages"][number],
        "image_size": list(experiment.data.image_size),
        "interpolation": experiment.data.interpolation,
        "domains": {name: with_effect(name, spec) for name, spec in domains.items()},
        "earlier": [stage_facts(config, earlier) for earlier in _earlier(config, number)],
    }


def stage_key(config: Config, number: int, provenance: Mapping[str, Any] | None = None) -> str:
    """Key of twelve hex digits, equal for two runs in which the stage has the same outcome.

    With ``provenance`` (:func:`reidx.runs.manifest.provenance`) the key also covers, as far as they concern the stage: the
    content of its data, the code of reidx and of its plugins, torch, timm, threads, processes, the kind of device, the
    precision chosen for ``auto``, and the content of the files that it names, at any path. Without it, the key covers only
    the config.
    """
    facts: dict[str, Any] = stage_facts(config, number)
    if provenance is not None:
        facts = with_precision(facts, provenance.get("precision", {}))
        facts = {**by_content(facts, digests_of(facts)), "provenance": _relevant_provenance(facts, provenance)}
    return tree_hash(facts)


def _domains(stage: Stage) -> set[str]:
    used = {stage.evaluate.domain, *(labelling.domain for labelling in stage.labels.values()), *stage.domains}
    return {name for name in used if name is not None}


def _earlier(config: Config, number: int) -> list[int]:
    """Stages that provide the initial weights or optimiser state of a stage."""
    stages = config.experiment.stages
    stage = stages[number]
    begun = (stage.init, stage.optimization.state_from, *(teacher.weights for teacher in stage.teachers.values()))
    names = {reference.removeprefix("stage:") for reference in begun if reference and reference.startswith("stage:")}
    return [n for n, other in enumerate(stages[:number]) if other.name in names]


def _relevant_provenance(facts: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``provenance`` that concerns a stage and the stages before it."""
    data, code = provenance["data"], provenance["code"]
    concerned = {"reidx", *namespaces(facts)}
    return {
        "data": {name: content for name, content in data.items() if name in _all_domains(facts)},
        "code": {name: source for name, source in code.items() if name in concerned},
        "torch": provenance["torch"],
        "timm": provenance["timm"],
        "threads": provenance["threads"],
        "processes": provenance["processes"],
        "device": device_of_this_process().type,
    }


def with_precision(facts: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """Replace ``precision: auto`` by the precision ``chosen``, in the facts of a stage and of those before it."""
    stage = facts["stage"]
    precision = chosen.get(stage["name"], stage["precision"])
    earlier = [with_precision(before, chosen) for before in facts["earlier"]]
    return {**facts, "stage": {**stage, "precision": precision}, "earlier": earlier}


def _all_domains(facts: Mapping[str, Any]) -> set[str]:
    return set(facts["domains"]).union(*map(_all_domains, facts["earlier"]))


def with_effect(domain: str, spec: Mapping[str, Any], at: KeyPath = ()) -> dict[str, Any]:
    """Spec of a domain without the keys that change no number, including those of a nested data set (``of``)."""
    kept = {}
    for key, value in spec.items():
        if not WITHOUT_EFFECT.fullmatch(dotted(("config", "data", "domains", domain, *at, key))):
            kept[key] = with_effect(domain, value, (*at, key)) if isinstance(value, Mapping) else value
    return kept
