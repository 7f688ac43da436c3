"""The record of a run in its folder: config and provenance."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from reidx import distributed
from reidx._version import __version__
from reidx.config.config import Config, experiment_hash
from reidx.config.yaml_tree import load_tree
from reidx.data.domains import Domains
from reidx.data.fingerprint import fingerprint
from reidx.errors import ConfigError, ReidxError, RunError
from reidx.machine.lifetimes import remove_partial_files
from reidx.outline.source import source_digest
from reidx.registry.discovery import plugins
from reidx.registry.plugin import Plugin
from reidx.runs import checkpoint as checkpoints
from reidx.runs.lock import exclusive_folder
from reidx.runs.named_files import by_content, digests_of
from reidx.runs.record_form import FORMAT, is_record, refuse_other_format
from reidx.runs.stamp import Stamp

RECORD = "experiment.json"
"""File that marks a folder as a run's."""

Resume = bool | Literal["anyway"]
"""Resume mode: no, under unchanged provenance only, or under any (``"anyway"``)."""

WITHOUT_EFFECT = re.compile(
    r"config\.(name|description|log(\..+)?|data\.(workers|cache_gb|cache_on|domains\.[^.]+\.(of\.)*(root|path)))"
)
"""Keys of a config that change no number. The path of a data set is one, because its content is compared."""

WARNED = ("torch", "timm", "threads")
"""Provenance that may differ with a warning: versions of torch and timm and the number of threads change the last digits."""


class RunManifest:
    """The record of a run in its folder: read, compared with the present provenance, and written.

    ``resumed`` lists the changes of provenance, one mapping (name to ``old → new``) per resumption. After
    :meth:`write`, ``provenance`` is the present one, and ``stamps`` holds the stamp that each stage's files must have, by stage
    name; None for a stage that was started without a record.
    """

    def __init__(self, folder: Path, config: Config, resume: Resume) -> None:
        self.folder, self.config, self.resume = folder, config, resume
        self.path = folder / RECORD
        self.resumed: list[dict[str, str]] = []
        self.provenance: dict[str, Any] = {}
        self.stamps: dict[str, Stamp | None] = {}
        self._earlier: dict[str, Any] | None = None
        self._lock = ExitStack()
        self._created_record = False

    @property
    def is_resumed(self) -> bool:
        """True if the folder holds a run to be resumed; valid after :meth:`open`."""
        return self._earlier is not None

    @property
    def precision(self) -> dict[str, str]:
        """Precision chosen for ``precision: auto`` when the run started, by stage; empty for a new run."""
        provenance = (self._earlier or {}).get("provenance")
        kept = provenance.get("precision") if isinstance(provenance, dict) else None
        found = kept.items() if isinstance(kept, dict) else ()
        return {stage: precision for stage, precision in found if precision in ("fp32", "bf16")}

    def open(self, message: Callable[[str], object] = lambda text: None) -> None:
        """Create and lock the folder, and read its record; :meth:`close` unlocks it. Cheap, so it precedes reading the data.

        Raises :class:`ConfigError` if the folder is unusable, holds another run, or is being trained in.
        """
        try:
            self._lock.enter_context(exclusive_folder(self.folder, "being trained in", message))
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "its record is not a text file"
            raise ConfigError(
                f"{self.folder} cannot be used as the run's folder: {why}. Fix this, or name another (--work-dir)."
            ) from error
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(
                f"{self.folder} cannot be used as the run's folder: it is not writable. Name another (--work-dir)."
            )
        if text is not None:
            if not self.resume:
                raise ConfigError(
                    f"{self.folder} already holds a run. Resume it (--resume), or name another folder (--work-dir)."
                )
            remove_partial_files(self.folder, ".*.partial", "[0-9]*-*/.*.partial")
            self._earlier = self._parsed(text)
            self.resumed = list(self._earlier.get("resumed", []))
        elif any(self.folder.glob("*/epoch_*.pth")):
            self._without("is missing")
            self._earlier = {}
        else:
            checkpoints.write_text(self.folder / "config.yaml", self.config.render())

    @property
    def threads(self) -> int | None:
        """Number of threads that the run started with, None for a new run; valid after :meth:`open`."""
        known = (self._earlier or {}).get("provenance", {})
        number = known.get("threads") if isinstance(known, dict) else None
        return number if isinstance(number, int) and number > 0 else None

    def write(
        self,
        domains: Domains,
        message: Callable[[str], None],
        key: Callable[[int, Mapping[str, Any]], str],
        precision: Mapping[str, str] | None = None,
    ) -> list[dict[str, str]]:
        """Write the run's record into the folder and return the changes of provenance, one mapping per resumption.

        ``domains`` are the run's domains, already read; ``key`` maps a stage's number and the provenance to its key;
        ``precision`` is the precision of the stages with ``auto``.

        Raises :class:`ConfigError` with all differences from the provenance that the run started with, unless ``resume`` is
        ``"anyway"``, which records them instead. Another version of torch or timm, or number of threads, is only a warning.
        """
        now = self.provenance = provenance(self.config, domains, precision)
        if self._earlier is not None:
            changed = self._changed(now)
            refused = {name: how for name, how in changed.items() if name not in WARNED}
            if refused and self.resume != "anyway":
                listing = "".join(f"\n  {name}: {how}" for name, how in refused.items())
                raise ConfigError(
                    f"{self.folder} was started with different provenance:{listing}\n"
                    "Restore it, name another folder (--work-dir), or continue all the same with --resume-anyway, which the "
                    "result's card records."
                )
            self.stamps = self._stamps(now, key)
            same = self._earlier.get("hash") == self.config.hash and self._earlier.get("stages") == self._kept_stamps()
            if not changed and same:
                return self.resumed
            if changed:
                listing = "; ".join(f"{name}: {how}" for name, how in changed.items())
                message(f"{self.folder} was started with different provenance: {listing}")
                self.resumed.append(changed)
            checkpoints.write_text(self.folder / "config.yaml", self.config.render())
        else:
            self.stamps = self._stamps(now, key)
        used = _used_plugins(self.config)
        record = {
            "format": FORMAT,
            "name": self.config.experiment.name,
            "hash": self.config.hash,
            "plugins": {plugin.namespace: _credits(plugin) for plugin in used},
            "provenance": now,
            "resumed": self.resumed,
            "begun": self.begun,
            "stages": self._kept_stamps(),
            "sessions": self._earlier.get("sessions", 0) if self._earlier else 0,
        }
        checkpoints.write_text(self.path, json.dumps(record, indent=1))
        self._created_record = self._earlier is None
        return self.resumed

    @property
    def begun(self) -> str:
        """Hash of the config that the run started with; its files name the run by it."""
        return str(self._earlier.get("begun", self._earlier["hash"])) if self._earlier else self.config.hash

    def _stamps(self, now: Mapping[str, Any], key: Callable[[int, Mapping[str, Any]], str]) -> dict[str, Stamp | None]:
        """Stamps of all stages: the recorded one for a stage that was started earlier, a new one otherwise."""
        stamps: dict[str, Stamp | None] = {}
        for number, stage in enumerate(self.config.experiment.stages):
            folder = self.folder / f"{number + 1}-{stage.name}"
            if self._earlier is not None and any(folder.glob("*.*")):
                kept = self._earlier.get("stages", {}).get(stage.name)
                stamps[stage.name] = None if kept is None else Stamp(**kept)
            else:
                stamps[stage.name] = Stamp(self.begun, self.config.experiment.seed, stage.name, key(number, now))
        return stamps

    def _kept_stamps(self) -> dict[str, Any]:
        return {name: None if stamp is None else asdict(stamp) for name, stamp in self.stamps.items()}

    def refuse_changed_files(self, stage: Any) -> None:
        """Raise :class:`RunError` if a file named in a stage's section has changed since the run started."""
        changed = _other_files({**self.provenance["files"]}, digests_of(stage))
        if changed:
            listing = "; ".join(f"{name}: {how}" for name, how in changed.items())
            raise RunError(f"{listing} since the run was started. Restore it and continue with --resume.")

    def stage_folder(self, name: str) -> Path:
        """Create the folder of a stage if missing; raises :class:`RunError` if the run's folder is gone."""
        folder = self.folder / name
        try:
            self.path.stat()
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be used: {error.strerror} ({error.filename}). If the run's folder was deleted, moved or "
                "unmounted, restore it; then continue with --resume."
            ) from error
        return folder

    def release(self) -> None:
        """Delete the record if this run created it and has saved nothing yet."""
        if self._created_record and not any(self.folder.glob("*/epoch_*.pth")) and not any(self.folder.glob("*/*.json")):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        refuse_other_format(record, self.folder)
        if not is_record(record):
            self._without("is damaged")
            return {}
        return record

    def _without(self, what: str) -> None:
        if self.resume != "anyway":
            raise ConfigError(
                f"{self.path} {what}, so the checkpoints in {self.folder} cannot be identified. Restore it, name another "
                "folder (--work-dir), or continue from them all the same (--resume-anyway)."
            )

    def _changed(self, now: Mapping[str, Any]) -> dict[str, str]:
        assert self._earlier is not None
        if not self._earlier:
            return {RECORD: "missing or damaged → recreated"}
        changed = {}
        if self._earlier["hash"] != self.config.hash:
            changed = self._changed_config(self._earlier["hash"], now)
        before = self._earlier.get("provenance", {})
        changed.update(_other_files(before.get("files", {}), now["files"]))
        changed.update(_other_data(before.get("data", {}), now["data"]))
        for name in ("processes", "code", *(known for known in WARNED if known in before)):
            changed.update(differences(before.get(name), now[name], name))
        return changed

    def _changed_config(self, theirs: str, now: Mapping[str, Any]) -> dict[str, str]:
        """Keys of the config that differ; the hashes if the earlier config is unreadable."""
        try:
            earlier = load_tree(self.folder / "config.yaml").data
        except (ReidxError, OSError):
            earlier = {}
        if experiment_hash(earlier) != theirs:
            return {"config": f"hash {theirs} → {self.config.hash}"}
        assert self._earlier is not None
        files = self._earlier.get("provenance", {}).get("files", {})
        found = differences(earlier, self.config.data, "config")
        # the same file at another path makes no difference
        other = differences(by_content(earlier, files), by_content(self.config.data, now["files"]), "config")
        return {name: how for name, how in found.items() if name in other and not WITHOUT_EFFECT.fullmatch(name)}


def provenance(config: Config, domains: Domains, precision: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Provenance of a run's numbers apart from its config: processes, content of named files and data, source code, torch,
    timm, threads, and the ``precision`` of the stages with ``auto``."""
    code = {"reidx": f"{__version__}, source {source_digest('reidx')}"}
    for plugin in _used_plugins(config):
        modules = sorted({entry.component.target.partition(":")[0].partition(".")[0] for entry in plugin.entries})
        code[plugin.namespace] = f"{plugin.origin}, source {' '.join(map(source_digest, modules))}"
    return {
        "processes": distributed.count(),
        "files": digests_of({key: value for key, value in config.data.items() if key in ("data", "stages")}),
        "data": {name: fingerprint(dataset) for name, dataset in domains.read().items()},
        "code": code,
        "torch": torch.__version__,
        "timm": importlib.metadata.version("timm"),
        "precision": dict(precision or {}),
        "threads": torch.get_num_threads(),
    }


def differences(before: Any, after: Any, of: str) -> dict[str, str]:
    """Differences between two trees of plain data: dotted path (from ``of``) of each leaf to ``old → new``."""
    old, new = _leaves(before, of), _leaves(after, of)
    return {
        name: f"{old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    }


def _leaves(value: Any, name: str) -> dict[str, str]:
    children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    leaves: dict[str, str] = {}
    for key, child in children:
        leaves.update(_leaves(child, f"{name}.{key}"))
    return leaves or {name: json.dumps(value, ensure_ascii=False)}


def _other_files(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Files at the same path with different content, with both digests."""
    return {
        f"file {path}": f"SHA-256 {before[path][:12]} → {after.get(path, 'missing')[:12]}"
        for path in before
        if before[path] != after.get(path, before[path])
    }


def _other_data(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """Splits whose fingerprints differ, with the kinds of difference."""
    changed = {}
    for domain, split in dict.fromkeys((d, s) for data in (before, after) for d in data for s in data[d]):
        old, new = (data.get(domain, {}).get(split, {}) for data in (before, after))
        if old != new:
            counts = " → ".join(f"{side.get('images', '?')} images" if side else "unknown" for side in (old, new))
            others = [key for key in ("files", "sizes", "ids", "cameras", "columns") if old.get(key) != new.get(key)]
            changed[f"data.{domain}.{split}"] = f"{counts}, different {', '.join(others)}"
    return changed


def _used_plugins(config: Config) -> list[Plugin]:
    """Plugins that provide a component of the config."""
    named = namespaces(config.data)
    return [plugin for plugin in plugins() if plugin.namespace in named]


def _credits(plugin: Plugin) -> dict[str, str]:
    paper, licence = (plugin.info.paper, plugin.info.licence) if plugin.info else ("", "")
    return {"distribution": plugin.origin, "paper": paper, "licence": licence}


def namespaces(data: Any) -> set[str]:
    """Namespaces of the plugins whose components a (part of a) resolved config names."""
    return {name.partition(".")[0] for name in _components(data) if "." in name}


def _components(data: Any) -> set[str]:
    """Names of all components in a resolved config."""
    if isinstance(data, list):
        return set().union(*map(_components, data))
    if not isinstance(data, dict):
        return set()
    own = {data["type"]} if isinstance(data.get("type"), str) else set()
    return own.union(*map(_components, data.values()))
