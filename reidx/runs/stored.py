"""A run as its folder shows it, finished or not: state, stages, metrics, card. Nothing is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reidx.config.yaml_tree import load_tree
from reidx.errors import ReidxError
from reidx.runs.epoch_log import Report, epochs_in
from reidx.runs.failure_note import noted_failure
from reidx.runs.lock import holder_of
from reidx.runs.manifest import RECORD
from reidx.runs.metrics import metrics_in
from reidx.runs.result import StageResult
from reidx.runs.stamp import read_sealed

STATES = ("finished", "running", "interrupted", "failed", "unreadable")


@dataclass(frozen=True)
class StoredRun:
    """A run that was read from its folder.

    ``reason`` is the message of a failure, the process that trains, or the fault of a folder that cannot be read. ``stages``
    hold the committed epochs, ``cards`` the card of each finished stage by name, ``card`` that of a finished run.
    """

    folder: Path
    state: str
    reason: str = ""
    config: Mapping[str, Any] | None = None
    record: Mapping[str, Any] | None = None
    stages: tuple[StageResult, ...] = ()
    cards: Mapping[str, Any] | None = None
    card: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def method(self) -> str:
        """The plugins whose components train: those outside of data and backbone; a dash if the core has all of them."""
        found = dict.fromkeys(_namespaces([_without_backbone(stage) for stage in self._planned]))
        return ", ".join(found) or "–"

    @property
    def data(self) -> str:
        """The data sets of the domains, in the order of the config."""
        domains = (self.config or {}).get("data", {}).get("domains", {}).values()
        return ", ".join(dict.fromkeys(_data_set(spec) for spec in domains)) or "–"

    @property
    def _planned(self) -> list[Mapping[str, Any]]:
        return list((self.config or {}).get("stages", []))

    @property
    def epochs(self) -> tuple[int, int]:
        """Committed and planned epochs of all stages."""
        return sum(len(stage.history) for stage in self.stages), sum(int(stage["epochs"]) for stage in self._planned)

    @cached_property
    def metrics(self) -> Report:
        """The metrics of the latest evaluation, as fractions; empty before the first."""
        reports = [report for stage in self.stages for report in (stage.before, *stage.history)]
        return next((found for report in reversed(reports) if "mAP" in report and (found := metrics_in(report))), {})

    @property
    def seconds(self) -> float:
        """The time of the committed epochs and of the evaluations before them, over all sessions."""
        reports = [report for stage in self.stages for report in (stage.before, *stage.history)]
        return sum(value for report in reports for name, value in report.items() if name.startswith("seconds_"))


def read_run(folder: Path) -> StoredRun:
    """Read the run in ``folder``; raises :class:`ReidxError` for a folder without one, or with damaged files."""
    if not folder.is_dir():
        raise ReidxError(f"{folder} is not a run: {'it is a file' if folder.exists() else 'there is no such folder'}.")
    if not (folder / RECORD).is_file():
        inside = [str(run) for run in folders_of_runs(folder)][:5]
        hint = f" It contains runs: {', '.join(inside)}." if inside else ""
        raise ReidxError(f"{folder} is not a run: it has no {RECORD}.{hint}")
    try:
        record = _mapping(folder / RECORD)
        result = _mapping(folder / "result.json") if (folder / "result.json").is_file() else None
        config = load_tree(folder / "config.yaml").data
        stages: list[StageResult] = []
        cards: dict[str, Any] = {}
        for number, planned in enumerate(config["stages"], start=1):
            stage, card = _stage(folder / f"{number}-{planned['name']}", planned["name"])
            stages.append(stage)
            cards |= {stage.name: card} if card else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReidxError(f"{folder} is not a complete run: its files cannot be read ({error}).") from error
    planned_epochs = sum(int(stage["epochs"]) for stage in config["stages"])
    whole = result is not None and sum(len(stage.history) for stage in stages) >= planned_epochs
    state, reason = ("finished", "") if whole else _unfinished(folder)
    own = result["card"] if whole and result else None
    return StoredRun(folder, state, reason, config, record, tuple(stages), cards, own)


def stored_run(folder: Path) -> StoredRun:
    """Read the run in ``folder``; one that cannot be read has the state ``unreadable``, with the reason."""
    try:
        return read_run(folder)
    except ReidxError as error:
        return StoredRun(folder, "unreadable", str(error))


def folders_of_runs(folder: Path) -> list[Path]:
    """Find the folders of runs in ``folder``: those in it, and those in the folder ``runs`` of an ablation in it."""
    found = [path.parent for pattern in ("*", "runs/*", "*/runs/*") for path in folder.glob(f"{pattern}/{RECORD}")]
    return sorted(dict.fromkeys(found))


def _stage(folder: Path, name: str) -> tuple[StageResult, dict[str, Any]]:
    """Return the committed epochs of a stage, and its card if it is finished."""
    if (folder / "done.json").is_file():
        done = read_sealed(folder / "done.json")
        return StageResult(name, done["before"], done["history"]), done["card"]
    before = read_sealed(folder / "before.json")["before"] if (folder / "before.json").is_file() else {}
    entries = epochs_in(folder / "log.jsonl")
    history = [{key: value for key, value in entry.items() if key not in ("run", "key")} for entry in entries]
    return StageResult(name, before, history), {}


def _unfinished(folder: Path) -> tuple[str, str]:
    holder = holder_of(folder)
    if holder is not None:
        return "running", holder
    failure = noted_failure(folder)
    return ("interrupted", "") if failure is None else ("failed", failure)


def _mapping(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not a mapping")
    return found


def _without_backbone(stage: Mapping[str, Any]) -> dict[str, Any]:
    model = {key: value for key, value in (stage.get("model") or {}).items() if key != "backbone"}
    return {**stage, "model": model}


def _namespaces(value: Any) -> list[str]:
    """The namespaces of all components in a part of a config."""
    if isinstance(value, Mapping):
        own = value.get("type")
        found = [own.partition(".")[0]] if isinstance(own, str) and "." in own else []
        return found + [name for inner in value.values() for name in _namespaces(inner)]
    return [name for inner in value for name in _namespaces(inner)] if isinstance(value, list) else []


def _data_set(spec: Any) -> str:
    """The component that reads a domain's files, also within a part of a data set (``of``)."""
    while isinstance(spec, Mapping) and "of" in spec:
        spec = spec["of"][0] if isinstance(spec["of"], list) else spec["of"]
    return str(spec["type"] if isinstance(spec, Mapping) else spec)
