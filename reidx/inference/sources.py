"""Sources of a trained network: the folder of a run or an export, a checkpoint of a run, a file of weights."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reidx.checks.load import check_node
from reidx.config.node import Node, Origin
from reidx.config.schema import Stage
from reidx.config.yaml_tree import load_node
from reidx.engine.cross_test import last_checkpoint
from reidx.errors import CheckpointError, ConfigError, ReidxError
from reidx.inference.exported import DESCRIPTION, read_exported
from reidx.models.key_maps import suggest_model
from reidx.models.network import Network, build_network
from reidx.models.weight_files import load_tensors
from reidx.models.weights import read_weights
from reidx.registry.build import entry_of, signature_of
from reidx.registry.constructor import is_file
from reidx.runs.checkpoint import load_weights
from reidx.runs.manifest import RECORD

CONFIG = "config.yaml"
GIVE = "Give the folder of a run or an export, or a file of weights."


@dataclass(frozen=True)
class Trained:
    """A trained network with all that decides its embeddings.

    ``model`` is the section of its config, without the files of initial weights; ``teacher`` is the network whose map its
    fusion uses, ``domain`` that of its BatchNorms, ``interpolation`` the filter that resizes its images. ``start`` has the keys
    ``model`` and ``init`` of a stage that begins with these weights.
    """

    name: str
    network: Network
    model: Mapping[str, Any]
    image_size: tuple[int, int]
    interpolation: str
    feature: str = "embed"
    teacher: Network | None = None
    domain: str | None = None
    start: Mapping[str, Any] = field(default_factory=dict)

    def description(self) -> str:
        """The settings that decide an embedding besides the weights, as JSON with sorted keys."""
        facts: dict[str, Any] = {key: self.model[key] for key in ("backbone", "fusion")}
        facts |= {"image_size": list(self.image_size), "interpolation": self.interpolation}
        facts |= {"feature": self.feature, "domain": self.domain}
        facts |= {"mean": list(self.network.mean), "std": list(self.network.std)}
        return json.dumps(facts, sort_keys=True, default=str)


def load_trained(source: str | Path, model: Mapping[str, Any] | None = None, checkpoint: str = "last") -> Trained:
    """Load the network of a run's folder, or of a file of weights, on the CPU.

    ``checkpoint`` is ``last``, or a file in the run's folder (``1-adapt/epoch_4.pth``). ``model`` is the section ``model`` of a
    config, for a file that is not in a run's folder and whose network no key map recognises. Raises :class:`ConfigError` or
    :class:`CheckpointError`, which say what is missing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / DESCRIPTION).is_file():
            if model is not None or checkpoint != "last":
                raise ConfigError(f"{path} is an exported network, which is complete: leave out `model` and `checkpoint`.")
            return _of_export(path)
        if (path / RECORD).is_file():
            if model is not None:
                raise ConfigError(f"{path} is the folder of a run, whose config has its model: leave out `model`.")
            return _of_run(path, checkpoint)
        raise CheckpointError(f"{path} is no folder of a run or an export: it has no {RECORD} or {DESCRIPTION}. {GIVE}")
    if not path.is_file():
        raise CheckpointError(f"There is no {path}. {GIVE}")
    if checkpoint != "last":
        raise ConfigError(f"{path} is a file: `checkpoint` chooses one in the folder of a run. Leave it out.")
    run = path.resolve().parent.parent
    if model is None and (run / RECORD).is_file():
        return _of_run(run, str(path.resolve().relative_to(run)))
    if model is None and not _is_checkpoint(path):
        model = suggest_model(read_weights(path), str(path.absolute()))
    if model is None:
        raise ConfigError(
            f"{path} is not in the folder of a run, so its network is unknown. Give `model`, the section of a config: "
            '{"backbone": {"type": "Timm", "name": "resnet50"}}.'
        )
    return _of_file(path, model)


def _of_export(folder: Path) -> Trained:
    """Load the network of a folder that ``reidx export`` wrote."""
    facts, network, teacher = read_exported(folder)
    height, width = facts["image_size"]
    size = (int(height), int(width))
    return Trained(
        facts["name"], network, facts["model"], size, facts["interpolation"], facts["feature"], teacher, facts["domain"]
    )


def _of_run(folder: Path, checkpoint: str) -> Trained:
    """Load the network that the run's evaluation tests, with the weights of a checkpoint."""
    written = folder / CONFIG
    data = load_node(written).plain()
    stages: list[dict[str, Any]] = data["stages"]
    if checkpoint == "last":
        stage, file = stages[-1], last_checkpoint(folder, len(stages), stages[-1])
    else:
        file = folder / checkpoint
        stage = next((s for n, s in enumerate(stages, 1) if file.parent.name == f"{n}-{s['name']}"), {})
        if not file.is_file() or not stage:
            there = sorted(str(path.relative_to(folder)) for path in folder.glob("*/epoch_*.pth"))
            raise CheckpointError(f"{folder} has no checkpoint {checkpoint}; there are: {', '.join(there) or 'none'}.")
    kept = {key: stage["evaluate"][key] for key in ("network", "feature")}
    tested = {"teachers": stage.get("teachers") or {}, "evaluate": kept}
    resolved = _resolved(stage["model"], data["data"], tested, str(written))
    domains = list(dict.fromkeys(stream["domain"] for stream in (stage.get("streams") or {}).values()))
    by_domain = bool(stage["model"].get("domain_bn"))
    domain = (stage["evaluate"].get("domain") or domains[-1]) if by_domain else None
    if domain is not None and domain not in domains:
        raise ConfigError(
            f"{folder}: its network has BatchNorms for the domains {', '.join(domains)}, and is tested on {domain}. "
            "Its embeddings are not defined."
        )
    size = (int(data["data"]["image_size"][0]), int(data["data"]["image_size"][1]))
    section = {**_without_weights(dataclasses.asdict(resolved.model)), "domain_bn": by_domain}
    network = build_network(section, size, domains=domains)
    name = resolved.evaluate.network
    follower = _follower(resolved, name) if network.wants_teacher else None
    teacher = None if follower is None else copy.deepcopy(network)
    load_weights(network, file, name, whole=True)
    if teacher is not None and follower is not None:
        load_weights(teacher, file, follower, whole=True)
    named = folder.resolve().name if checkpoint == "last" else f"{folder.resolve().name}/{checkpoint}"
    interpolation = data["data"]["interpolation"]
    start = {"model": section, "init": str(file.absolute())}
    return Trained(named, network, section, size, interpolation, resolved.evaluate.feature, teacher, domain, start)


def _follower(stage: Stage, network: str) -> str | None:
    """The EMA that follows a network, whose map a fusion with a teacher input uses."""
    return next((name for name, teacher in stage.teachers.items() if teacher.type == "EMA" and teacher.of == network), None)


def _of_file(path: Path, model: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> Trained:
    """Load a stage's checkpoint, or weights that the components of ``model`` read from their file."""
    stage = _resolved(model, data or {}, {}, "model")
    resolved = dataclasses.asdict(stage.model)
    settings = {"image_size": (256, 128), "interpolation": "bicubic", **(data or {})}
    size = (int(settings["image_size"][0]), int(settings["image_size"][1]))
    section = _without_weights(resolved)
    start: dict[str, Any] = {"model": section, "init": str(path.absolute())}
    if _is_checkpoint(path):
        network = build_network(section, size)
        load_weights(network, path, "student", whole=True)
    else:
        start = {"model": _with_weights(resolved, str(path.absolute())), "init": None}
        network = build_network(start["model"], size)
    return Trained(path.stem, network, section, size, settings["interpolation"], start=start)


def _is_checkpoint(path: Path) -> bool:
    """Return True for a checkpoint of a stage, whose weights are named by network."""
    content = load_tensors(path)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    return isinstance(state, Mapping) and any(str(key).startswith("networks.") for key in state)


def _resolved(model: Mapping[str, Any], data: Mapping[str, Any], further: Mapping[str, Any], place: str) -> Stage:
    """Check the section ``model`` with the settings of images, and fill in its defaults."""
    settings = {key: data[key] for key in ("image_size", "interpolation") if key in data}
    tested = {
        "name": "inference",
        "log": [],
        "data": settings,
        "model": {**model, "domain_bn": False},  # the domains are not read
        **further,
        "stages": [{"name": "inference", "epochs": 0}],
    }
    return check_node(Node.of(tested, Origin(place)), [], place).experiment.stages[-1]


def _files(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """The optional arguments of a component that are files."""
    known = signature_of(entry_of(kind, spec))
    return [key for key, parameter in known.items() if parameter.default is None and is_file(parameter.hint)]


def _without_weights(model: Mapping[str, Any]) -> dict[str, Any]:
    """The section without initial weights, which those of the checkpoint replace and which need not be on this machine."""
    cleared = dict(model)
    for kind in ("backbone", "fusion"):
        spec = {**model[kind], **dict.fromkeys(_files(kind, model[kind]))}
        cleared[kind] = {**spec, "pretrained": False} if spec.get("pretrained") is True else spec
        if cleared[kind].get("weights_image_size") is not None:
            cleared[kind]["weights_image_size"] = None
    return cleared


def _with_weights(model: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The section in which each component that has an argument ``weights``, and no other file there, reads ``path``."""
    filled = dict(model)
    for kind in ("backbone", "fusion"):
        spec = dict(model[kind])
        if "weights" in _files(kind, spec) and spec.get("weights") is None:
            spec["weights"] = path
        filled[kind] = spec
    if all(filled[kind].get("weights") != path for kind in ("backbone", "fusion")):
        raise ReidxError(
            f"{path}: neither {model['backbone']['type']} nor {model['fusion']['type']} has an argument `weights` to read it "
            "with, or `model` names other files. Give the backbone whose weights the file holds."
        )
    return filled
