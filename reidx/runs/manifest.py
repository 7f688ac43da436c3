"""What a run's folder says of the run: its config, and the provenance that its numbers come from."""

from __future__ import annotations

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
from reidx.runs.lock import alone_in
from reidx.runs.named_files import by_content, digests_of
from reidx.runs.record_form import FORMAT, is_record, refuse_other_format
from reidx.runs.stamp import Stamp

RECORD = "experiment.json"
"""The file that makes a folder a run's."""

Resume = bool | Literal["anyway"]
"""Whether a run is gone on with: only under the provenance it was begun in, or under others too."""

WITHOUT_EFFECT = re.compile(
    r"config\.(name|description|log(\..+)?|data\.(workers|cache_gb|cache_on|domains\.[^.]+\.(of\.)*(root|path)))"
)
"""Keys of a config that touch no number. Where a data set lies is one: what it holds is compared itself."""

WARNED = ("torch", "threads")
"""What may differ without being asked: torch's version and the number of threads move last digits."""


class RunManifest:
    """The record of a run in its folder: read, compared, and written when the folder becomes the run's.

    ``resumed`` are the provenance that changed when the run was gone on with, a mapping each time: what differed, and
    how. Once the folder is claimed, ``provenance`` are those of now, and ``stamps`` say by the name of each stage whose its
    files must be: None for one that was begun while there was no record of it.
    """

    def __init__(self, folder: Path, config: Config, resume: Resume) -> None:
        self.folder, self.config, self.resume = folder, config, resume
        self.path = folder / RECORD
        self.resumed: list[dict[str, str]] = []
        self.provenance: dict[str, Any] = {}
        self.stamps: dict[str, Stamp | None] = {}
        self._earlier: dict[str, Any] | None = None
        self._lock = ExitStack()
        self._claimed = False

    @property
    def goes_on(self) -> bool:
        """Whether the folder holds a run already, which is gone on with; known once it is admitted."""
        return self._earlier is not None

    @property
    def precision(self) -> dict[str, str]:
        """What ``precision: auto`` came to when the run was begun, by stage; nothing for a new one."""
        provenance = (self._earlier or {}).get("provenance")
        kept = provenance.get("precision") if isinstance(provenance, dict) else None
        found = kept.items() if isinstance(kept, dict) else ()
        return {stage: precision for stage, precision in found if precision in ("fp32", "bf16")}

    def admit(self, say: Callable[[str], object] = lambda text: None) -> None:
        """Lock the folder, made if need be, and look at it; :meth:`close` gives it free.

        Raises :class:`ConfigError` if it can be no run's, is another's, or is being trained in. Costs nothing, and so comes
        before the data are read.
        """
        try:
            self._lock.enter_context(alone_in(self.folder, "being trained in", say))
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "its record is no text"
            raise ConfigError(
                f"{self.folder} cannot be the run's folder: {why}. Mend that, or name another (--work-dir)."
            ) from error
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(
                f"{self.folder} cannot be the run's folder: it may not be written to. Name another (--work-dir)."
            )
        if text is not None:
            if not self.resume:
                raise ConfigError(
                    f"{self.folder} holds a run already. Go on with it (--resume), or name another folder (--work-dir)."
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
        """The number of threads that the run was begun with; None of a new one. Known once it is admitted."""
        known = (self._earlier or {}).get("provenance", {})
        number = known.get("threads") if isinstance(known, dict) else None
        return number if isinstance(number, int) and number > 0 else None

    def claim(
        self,
        domains: Domains,
        say: Callable[[str], None],
        key: Callable[[int, Mapping[str, Any]], str],
        precision: Mapping[str, str] | None = None,
    ) -> list[dict[str, str]]:
        """Make the folder this run's, and return what had changed each time it was resumed.

        ``domains`` are those it uses, read already; ``key`` gives the key of a stage by its number and the provenance;
        ``precision`` is what ``auto`` is for the stages that leave it open.

        Raises :class:`ConfigError` with all that differs from the provenance in which the run was begun, unless it is
        to go on anyway; that is noted then. Another version of torch and another number of threads are only said.
        """
        now = self.provenance = provenance(self.config, domains, precision)
        if self._earlier is not None:
            changed = self._changed(now)
            refused = {name: how for name, how in changed.items() if name not in WARNED}
            if refused and self.resume != "anyway":
                listing = "".join(f"\n  {name}: {how}" for name, how in refused.items())
                raise ConfigError(
                    f"{self.folder} was begun under other provenance:{listing}\n"
                    "Make them what they were, name another folder (--work-dir), or go on all the same with "
                    "--resume-anyway, which the result's card will say."
                )
            self.stamps = self._stamps(now, key)
            same = self._earlier.get("hash") == self.config.hash and self._earlier.get("stages") == self._kept_stamps()
            if not changed and same:
                return self.resumed
            if changed:
                listing = "; ".join(f"{name}: {how}" for name, how in changed.items())
                say(f"{self.folder} was begun under other provenance: {listing}")
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
        self._claimed = self._earlier is None
        return self.resumed

    @property
    def begun(self) -> str:
        """The hash of the config that the run was begun with, which is what its files call it."""
        return str(self._earlier.get("begun", self._earlier["hash"])) if self._earlier else self.config.hash

    def _stamps(self, now: Mapping[str, Any], key: Callable[[int, Mapping[str, Any]], str]) -> dict[str, Stamp | None]:
        """Whose the files of each stage are: of one that was begun as it was then, of another as it is now."""
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
        """Raise :class:`RunError` if a file that (the section of) a stage names has changed since the run was started."""
        changed = _other_files({**self.provenance["files"]}, digests_of(stage))
        if changed:
            listing = "; ".join(f"{name}: {how}" for name, how in changed.items())
            raise RunError(f"{listing} since the run was started. Put it back, and go on with --resume.")

    def stage_folder(self, name: str) -> Path:
        """The folder of a stage, made if need be; raises :class:`RunError` where that of the run is gone by now."""
        folder = self.folder / name
        try:
            self.path.stat()
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be used: {error.strerror} ({error.filename}). If the run's folder was deleted, moved or "
                "unmounted, put it back; then go on with --resume."
            ) from error
        return folder

    def release(self) -> None:
        """Give the folder free again if this run has claimed it and has nothing saved in it yet."""
        if self._claimed and not any(self.folder.glob("*/epoch_*.pth")) and not any(self.folder.glob("*/*.json")):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the folder free for other processes."""
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
                f"{self.path} {what}, so nothing says what the checkpoints in {self.folder} are of. Restore it, name another "
                "folder (--work-dir), or go on with them all the same (--resume-anyway)."
            )

    def _changed(self, now: Mapping[str, Any]) -> dict[str, str]:
        assert self._earlier is not None
        if not self._earlier:
            return {RECORD: "missing or damaged → made anew"}
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
        """The keys of the config that differ; the hashes where the earlier one cannot be read any more."""
        try:
            earlier = load_tree(self.folder / "config.yaml").data
        except (ReidxError, OSError):
            earlier = {}
        if experiment_hash(earlier) != theirs:
            return {"config": f"hash {theirs} → {self.config.hash}"}
        assert self._earlier is not None
        files = self._earlier.get("provenance", {}).get("files", {})
        found = differences(earlier, self.config.data, "config")
        # the same file by another path decides the same
        other = differences(by_content(earlier, files), by_content(self.config.data, now["files"]), "config")
        return {name: how for name, how in found.items() if name in other and not WITHOUT_EFFECT.fullmatch(name)}


def provenance(config: Config, domains: Domains, precision: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What decides the numbers of a run beside its config: processes, the files that it names, the data's content, the code
    that runs, torch, and the ``precision`` of the stages that leave it open."""
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
        "precision": dict(precision or {}),
        "threads": torch.get_num_threads(),
    }


def differences(before: Any, after: Any, of: str) -> dict[str, str]:
    """Where two trees of plain data differ: ``old → new`` by the dotted path of each leaf, under the name ``of``."""
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
    """The files of the same path with other content, and the digests of both."""
    return {
        f"file {path}": f"SHA-256 {before[path][:12]} → {after.get(path, 'missing')[:12]}"
        for path in before
        if before[path] != after.get(path, before[path])
    }


def _other_data(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """The splits of the domains whose fingerprints differ, and in what."""
    changed = {}
    for domain, split in dict.fromkeys((d, s) for data in (before, after) for d in data for s in data[d]):
        old, new = (data.get(domain, {}).get(split, {}) for data in (before, after))
        if old != new:
            counts = " → ".join(f"{side.get('images', '?')} images" if side else "unknown" for side in (old, new))
            others = [key for key in ("files", "sizes", "ids", "cameras") if old.get(key) != new.get(key)]
            changed[f"data.{domain}.{split}"] = f"{counts}, other {', '.join(others)}"
    return changed


def _used_plugins(config: Config) -> list[Plugin]:
    """The plugins that bring a component of the config."""
    named = namespaces(config.data)
    return [plugin for plugin in plugins() if plugin.namespace in named]


def _credits(plugin: Plugin) -> dict[str, str]:
    paper, licence = (plugin.info.paper, plugin.info.licence) if plugin.info else ("", "")
    return {"distribution": plugin.origin, "paper": paper, "licence": licence}


def namespaces(data: Any) -> set[str]:
    """The namespaces of the plugins whose components are named in (a part of) a resolved config."""
    return {name.partition(".")[0] for name in _components(data) if "." in name}


def _components(data: Any) -> set[str]:
    """The names of all components in a resolved config."""
    if isinstance(data, list):
        return set().union(*map(_components, data))
    if not isinstance(data, dict):
        return set()
    own = {data["type"]} if isinstance(data.get("type"), str) else set()
    return own.union(*map(_components, data.values()))
