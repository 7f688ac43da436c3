"""Stages that runs have in common, trained once: a shared folder keeps finished ones by all that decides their outcome."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reidx.config import Config
from reidx.config_node import KeyPath, dotted
from reidx.engine import checkpoint as checkpoints
from reidx.engine.record import WITHOUT_EFFECT, namespaces
from reidx.engine.runner import device_of_this_process
from reidx.errors import ConfigError, RunError
from reidx.schema import Stage
from reidx.source import file_digest
from reidx.yaml_tree import tree_hash

ORIGIN = "shared.json"
"""In the folder of a stage that is shared: the run that it was taken over from, if it was. It is written last."""


def stage_facts(config: Config, number: int) -> dict[str, Any]:
    """What of a config the outcome of stage ``number`` (from 0) depends on: its own keys, its place, the seed, the domains
    that it uses, and the same of each stage that it goes on from."""
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


def stage_key(config: Config, number: int, circumstances: Mapping[str, Any] | None = None) -> str:
    """Twelve hex digits: equal where a stage comes out the same in two runs.

    Under ``circumstances`` (:func:`reidx.engine.record.circumstances`) these count too, as far as they concern the stage:
    the content of its data, the code of reidx and of the plugins in it, torch, processes, the kind of device, what ``precision:
    auto`` came to, and the content of the files of weights that it names. Without, the key is of the config alone.
    """
    facts: dict[str, Any] = stage_facts(config, number)
    if circumstances is not None:
        facts = with_precision(facts, circumstances.get("precision", {}))
        facts = {**facts, "circumstances": _circumstances(facts, circumstances)}
    return tree_hash(facts)


class Shared:
    """The finished stages of all runs that share a folder.

    A stage is found by its :func:`stage_key`, so it is only taken over where it would come out the same.
    """

    def __init__(self, folder: Path, config: Config, circumstances: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.folder, self.config, self.circumstances, self.say = folder, config, circumstances, say
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--share {folder}: {error.strerror} ({error.filename}). Name another folder.") from error

    def take(self, number: int, path: Path) -> bool:
        """Make ``path`` the folder of stage ``number`` as another run has finished it; False where none has, or the stage
        was begun in ``path`` already."""
        there = self._stage(number)
        stage = self.config.experiment.stages[number]
        if path.exists() or not there.is_dir():
            return False
        if stage.epochs and checkpoints.newest(there) != there / f"epoch_{stage.epochs}.pth":
            self.say(f"stage {stage.name}: the last checkpoint shared in {there} is damaged; the stage is trained anew")
            return False
        _copy(there, path)
        self.say(f"stage {stage.name}: taken over from {trained_in(path)}, which has trained the same")
        return True

    def leave(self, number: int, path: Path) -> None:
        """Let other runs take over stage ``number``, finished in ``path``. That it cannot be left ends no run."""
        there = self._stage(number)
        try:
            try:
                _copy(path, there, {ORIGIN: json.dumps({"trained_in": str(path.parent.resolve())})})
            except OSError:
                if not there.is_dir():  # else another run was first, with the same
                    raise
            checkpoints.write_text(path / ORIGIN, json.dumps({"trained_in": None}))
        except (OSError, RunError) as error:
            self.say(f"{there}: the stage cannot be shared ({error})")

    def _stage(self, number: int) -> Path:
        key = stage_key(self.config, number, self.circumstances)
        return self.folder / f"{self.config.experiment.stages[number].name}-{key}"


def trained_in(path: Path) -> str | None:
    """The folder of the run that a stage, in folder ``path``, was taken over from; None if it was trained there."""
    origin = path / ORIGIN
    return checkpoints.read_json(origin)["trained_in"] if origin.is_file() else None


# ---- what a stage depends on


def _domains(stage: Stage) -> set[str]:
    used = {stage.evaluate.domain, *(level.domain for level in stage.labels.values()), *stage.domains}
    return {name for name in used if name is not None}


def _earlier(config: Config, number: int) -> list[int]:
    """The stages whose weights, or whose optimiser's moments, a stage begins with."""
    stages = config.experiment.stages
    stage = stages[number]
    begun = (stage.init, stage.optimizer["moments"], *(teacher.weights for teacher in stage.teachers.values()))
    names = {reference.removeprefix("stage:") for reference in begun if reference and reference.startswith("stage:")}
    return [n for n, other in enumerate(stages[:number]) if other.name in names]


def _circumstances(facts: Mapping[str, Any], circumstances: Mapping[str, Any]) -> dict[str, Any]:
    """Those that concern a stage and the stages before it."""
    data, code = circumstances["data"], circumstances["code"]
    concerned = {"reidx", *namespaces(facts)}
    return {
        "data": {name: content for name, content in data.items() if name in _all_domains(facts)},
        "code": {name: source for name, source in code.items() if name in concerned},
        "torch": circumstances["torch"],
        "processes": circumstances["processes"],
        "device": device_of_this_process().type,
        "files": {path: file_digest(Path(path).expanduser()) for path in sorted(_files(facts))},
    }


def with_precision(facts: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a stage, and of those before it, with the precision that they computed in for ``auto``."""
    stage = facts["stage"]
    precision = chosen.get(stage["name"], stage["precision"])
    earlier = [with_precision(before, chosen) for before in facts["earlier"]]
    return {**facts, "stage": {**stage, "precision": precision}, "earlier": earlier}


def _all_domains(facts: Mapping[str, Any]) -> set[str]:
    return set(facts["domains"]).union(*map(_all_domains, facts["earlier"]))


def _files(facts: Mapping[str, Any]) -> set[str]:
    """The files of weights that a stage, or one that it goes on from, names."""
    stage = facts["stage"]
    named = [stage["init"], *stage["model"]["backbone"].values(), *(t["weights"] for t in stage["teachers"].values())]
    files = {name for name in named if isinstance(name, str) and Path(name).is_file()}
    return files.union(*map(_files, facts["earlier"]))


def with_effect(domain: str, spec: Mapping[str, Any], at: KeyPath = ()) -> dict[str, Any]:
    """The spec of a domain without the keys that touch no number, those of a data set inside it (``of``) too."""
    kept = {}
    for key, value in spec.items():
        if not WITHOUT_EFFECT.fullmatch(dotted(("config", "data", "domains", domain, *at, key))):
            kept[key] = with_effect(domain, value, (*at, key)) if isinstance(value, Mapping) else value
    return kept


# ---- files


def _copy(source: Path, folder: Path, more: Mapping[str, str] | None = None) -> None:
    """Make ``folder`` as a copy of a stage's, whole or not at all; ``more`` are further files by their text.

    Checkpoints are replaced and never written to, so the copy has the same files by another name where the disk can.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, copy_function=_link)
        for name, text in (more or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _link(source: str, target: str) -> None:
    if source.endswith(".pth"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
