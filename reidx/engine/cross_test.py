"""Tests of finished runs on their own and on other data sets, one cell for each pair of a run and a set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reidx.checks.load import check_node
from reidx.config.config import Config
from reidx.config.files import ConfigFile
from reidx.config.merge import Override
from reidx.config.node import Node, Origin
from reidx.config.sections import section_at
from reidx.config.yaml_tree import load_node
from reidx.engine import experiment
from reidx.errors import ConfigError, ReidxError, suggest
from reidx.machine.threads import Threads
from reidx.registry.build import signature_of
from reidx.registry.discovery import registry
from reidx.reporting.reporter import Mode
from reidx.runs.cross_table import Cell
from reidx.runs.manifest import RECORD
from reidx.runs.repeated import mean_of

KEPT = ("precision", "feature_dtype", "model", "evaluate")
"""Keys of a stage that its evaluation needs, besides its teachers."""

Target = Mapping[str, Any]
"""A test set: the spec of its data set (``dataset``) and the settings of its evaluation (``evaluate``)."""


def test_runs(
    runs: Sequence[str | Path],
    sets: Mapping[str, str],
    overrides: Sequence[str] = (),
    rerank: bool = False,
    progress: Mode | None = None,
    threads: Threads = None,
    share: str | Path | None = None,
    done: Callable[[list[Cell]], None] = lambda cells: None,
) -> list[Cell]:
    """Test the last checkpoint of each run on each set; without ``sets``, on the run's own test domain.

    ``sets`` are folders by name: that of a base config ``reidx::data/NAME.yaml``, whose protocol is used, or of a data-set
    component. A set with several random splits (VIPeR's ``trial``) is tested on each, and the cell has the means, unless
    ``overrides`` choose one. ``overrides`` change values of each test: ``evaluate.metric=cosine``. ``share`` is a folder with
    packed images. ``done`` gets all cells so far after each. A cell that fails holds the message, and the others are tested.
    Raises :class:`ReidxError` for a folder that is no run and for an unknown set, before the first test.
    """
    folders = list(dict.fromkeys(map(Path, runs)))
    for folder in folders:
        if not (folder / RECORD).is_file():
            there = "it has no record" if folder.is_dir() else "it is a file" if folder.exists() else "there is no such folder"
            raise ReidxError(f"{folder} is not a run: {there} ({RECORD}).")
    targets: dict[str, Target | None] = {name: target_of(name, path) for name, path in sets.items()} or {"": None}
    cells: list[Cell] = []
    for folder in folders:
        for name, target in targets.items():
            try:
                splits, results = _splits_of(folder, target, overrides), []
                for chosen in [target] if splits is None or target is None else _each(target, splits):
                    config, weights = config_to_test(folder, chosen, overrides)
                    results.append(experiment.test(config, weights, progress, threads, rerank, share))
                result = results[0] if splits is None else mean_of(results, *splits)
                cells.append(Cell(str(folder), name or str(config.experiment.stages[-1].evaluate.domain), result))
            except (ReidxError, OSError) as error:
                cells.append(Cell(str(folder), name or "its own domain", None, str(error)))
            done(cells)
    return cells


def target_of(name: str, path: str) -> Target:
    """Return the test set ``name`` in the folder (or table) ``path``. Raises :class:`ConfigError` for an unknown name."""
    bases = sorted(file.stem for file in ConfigFile.at("reidx::data").file.glob("*.yaml"))
    if name in bases:
        base = load_node(f"reidx::data/{name}.yaml").plain()
        evaluate = dict(base["evaluate"])
        spec = _located(base["data"]["domains"][evaluate.pop("domain")], path)
        return {"dataset": spec, "evaluate": evaluate}
    known = {entry.name: entry for entry in registry().entries("dataset")}
    if name not in known:
        hint = suggest(name, [*bases, *known]) or f"Base configs: {', '.join(bases)}. Data sets: {', '.join(sorted(known))}."
        raise ConfigError(f"--on {name}={path}: there is no base config or data set {name!r}. {hint}")
    keys = signature_of(known[name]).items()
    key = next((key for key, parameter in keys if key in ("root", "path") and parameter.required), None)
    if key is None:
        raise ConfigError(f"--on {name}={path}: data set {name} is not given by its root or path alone. Test it with a config.")
    return {"dataset": {"type": name, key: path}, "evaluate": {}}


class _Splits(NamedTuple):
    """The random splits of a test set: the argument of its data set that chooses one, and its values."""

    argument: str
    values: Sequence[int]


def _splits_of(folder: Path, target: Target | None, overrides: Sequence[str]) -> _Splits | None:
    """Return the random splits of a test set; None if there is one, or if an override chooses one.

    Raises :class:`ConfigError` if the run was trained on one of them, whose people are in the tests of the others.
    """
    if target is None:
        return None
    spec = target["dataset"]
    kind: Any = registry().find("dataset", spec["type"]).load()
    arguments = {key: value for key, value in spec.items() if key != "type"}
    found = kind.repeats(**arguments) if hasattr(kind, "repeats") else None
    keys = [text.partition("=")[0].strip() for text in overrides]
    if found is None or any(key.startswith("data.domains.") and key.endswith(f".{found[0]}") for key in keys):
        return None
    argument, values = splits = _Splits(*found)
    learnt = load_node(folder / "config.yaml").plain()["data"]["domains"]
    if same := [name for name, domain in learnt.items() if isinstance(domain, Mapping) and domain["type"] == spec["type"]]:
        raise ConfigError(
            f"its result is the mean over {argument} {values[0]} to {values[-1]}, but the run's domain {same[0]} is of this "
            f"data set, and the tests of other values have people of its training. Test it without --on, or choose one value: "
            f"--set data.domains.DOMAIN.{argument}=N, where DOMAIN is the run's test domain."
        )
    return splits


def _each(target: Target, splits: _Splits) -> list[Target]:
    """Return the test set with each of its splits."""
    return [{**target, "dataset": {**target["dataset"], splits.argument: value}} for value in splits.values]


def _located(spec: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the spec of a data set, or of a part of one, with another folder."""
    if "of" in spec:
        return {**spec, "of": _located(spec["of"], path)}
    return {**spec, "path" if "path" in spec else "root": path}


def config_to_test(
    folder: Path, target: Target | None = None, overrides: Sequence[str] = ()
) -> tuple[Config, Path]:
    """Return the experiment that tests a run on a set, and the run's last checkpoint.

    It has one stage without training, with the parts that the last stage's evaluation needs. The training data and the
    components that are only used for training may be missing.
    """
    path = folder / "config.yaml"
    data = load_node(path).plain()
    stage = data["stages"][-1]
    domain = stage["evaluate"].get("domain")
    if domain is None:
        raise ConfigError(f"{folder}: its last stage {stage['name']} has no test domain (evaluate.domain).")
    kept = {key: stage[key] for key in KEPT if key in stage}
    kept["teachers"] = {name: {**teacher, "weights": None} for name, teacher in (stage.get("teachers") or {}).items()}
    kept["evaluate"] = {**kept["evaluate"], "domain_probe": None, "before": False, "every": 0}
    if target is not None:
        kept["evaluate"] |= {"protocol": "Market1501", **target["evaluate"]}
    spec = data["data"]["domains"][domain] if target is None else target["dataset"]
    domains = {domain: spec}
    if stage["model"].get("domain_bn"):  # the network has BatchNorms for each training domain, whose images are not read
        streams = {name: stream["domain"] for name, stream in stage["streams"].items()}
        domains |= dict.fromkeys(streams.values(), spec)
        kept["streams"] = {name: {"domain": of, "labels": None, "sampler": "Shuffle"} for name, of in streams.items()}
    tested = {
        "name": data["name"],
        "seed": data["seed"],
        "log": [],
        "data": {**data["data"], "domains": domains},
        **kept,
        "stages": [{"name": stage["name"], "epochs": 0}],
    }
    root = Node.of(tested, Origin(str(path)))
    config = check_node(root, [Override.read(text, section_at) for text in overrides], str(path))
    trained = {"name": stage["name"], "epochs": stage["epochs"]}
    return config, last_checkpoint(folder, len(data["stages"]), trained)


def last_checkpoint(folder: Path, number: int, stage: Mapping[str, Any]) -> Path:
    """Return the last checkpoint of a run's stage, counted from 1; raises :class:`ReidxError` for an unfinished run."""
    last = folder / f"{number}-{stage['name']}" / f"epoch_{stage['epochs']}.pth"
    if not last.is_file():
        raise ReidxError(f"{folder} is not finished: there is no {last}. Resume it: reidx train {folder / 'config.yaml'} "
                         f"--work-dir {folder} --resume")  # fmt: skip
    return last


def sets_of(arguments: Sequence[str]) -> dict[str, str]:
    """Return folders by name from arguments ``NAME=PATH``; raises :class:`ConfigError` for others and for a repeated name."""
    found: dict[str, str] = {}
    for text in arguments:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--on {text}: write NAME=PATH, for example --on market1501=data/market1501.")
        if name in found:
            raise ConfigError(f"--on {text}: {name} is given twice, also as {json.dumps(found[name])}.")
        found[name] = path
    return found
