"""Stamps that name the run of each file, and records that detect edits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reidx.errors import CheckpointError
from reidx.models.weight_files import load_tensors
from reidx.runs.checkpoint import numbered, write_text
from reidx.runs.training_state import KEY

STAMP = "stamp"
"""Key of the stamp in a file."""


@dataclass(frozen=True)
class Stamp:
    """Owner of a stage's files: the ``run`` (hash of the config that it started with), its ``seed`` and the ``stage``.

    ``key`` (:func:`reidx.runs.stage_key.stage_key`) covers everything that determines the outcome: stages with the same key
    are interchangeable between runs.
    """

    run: str
    seed: int
    stage: str
    key: str

    def refuse_other(self, path: Path, found: Any) -> None:
        """Raise :class:`CheckpointError` unless ``found``, the stamp of the file ``path``, has the same key."""
        if isinstance(found, Mapping) and found.get("key") == self.key:
            return
        theirs = f"belongs to another run ({_described(found)})" if isinstance(found, Mapping) else "does not name its run"
        raise CheckpointError(
            f"{path} {theirs}; this run is {_described(asdict(self))}. Restore this run's file, or delete {path.parent} to "
            "train the stage again."
        )


def refuse_foreign(folder: Path, stamp: Stamp) -> None:
    """Raise :class:`CheckpointError` for the first file in a stage's folder that belongs to another run.

    Damaged checkpoints are skipped here and handled where they are loaded.
    """
    for name in ("done.json", "before.json", "shared.json"):
        if (folder / name).is_file():
            read_sealed(folder / name, stamp)
    first = _first_line(folder / "log.jsonl")
    if first.get("run", stamp.run) != stamp.run and first.get("key", stamp.key) != stamp.key:
        stamp.refuse_other(folder / "log.jsonl", first)
    for path in numbered(folder):
        try:
            found = stamp_of(path)
        except CheckpointError:
            continue
        stamp.refuse_other(path, found)


def stamp_of(checkpoint: Path) -> Any:
    """Read the stamp of a checkpoint, None without one, without loading weights; raises as :func:`load_tensors` does."""
    content = load_tensors(checkpoint, lazily=True)
    own = content.get(KEY) if isinstance(content, Mapping) else None
    return own.get(STAMP) if isinstance(own, Mapping) else None


def _first_line(log: Path) -> Mapping[str, Any]:
    try:
        with open(log, encoding="utf-8") as handle:
            row = json.loads(handle.readline(1 << 20))
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, Mapping) else {}


def _described(of: Mapping[str, Any]) -> str:
    names = {"stage": "stage", "seed": "seed", "run": "config", "key": "key"}
    return ", ".join(f"{name} {of[key]}" for key, name in names.items() if key in of)


# ---- records


def sealed(content: Mapping[str, Any], stamp: Stamp | None) -> str:
    """Encode a record of a stage as JSON: its stamp, the content, and a checksum of both."""
    whole = {STAMP: None if stamp is None else asdict(stamp), **content}
    return json.dumps({**whole, "sha256": _sum(whole)}, indent=1)


def write_sealed(path: Path, content: Mapping[str, Any], stamp: Stamp | None) -> None:
    """Write a record of a stage, see :func:`sealed`."""
    write_text(path, sealed(content, stamp))


def read_sealed(path: Path, stamp: Stamp | None = None) -> dict[str, Any]:
    """Read the content of a record of a stage.

    Raises :class:`CheckpointError` if it is damaged, was edited, or does not match ``stamp`` (None accepts any).
    """
    why, whole = "", None
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = str(error.strerror) if isinstance(error, OSError) else "it is not complete JSON"
    else:
        if not isinstance(whole, dict) or "sha256" not in whole:
            why = "it is not a complete record of a stage"
        elif whole.pop("sha256") != _sum(whole):
            why = "it was edited or damaged: its checksum does not match"
    if why or whole is None:
        raise CheckpointError(
            f"{path} cannot be read ({why}). Delete it and use --resume, which recreates it from the last checkpoint."
        )
    found = whole.pop(STAMP, None)
    if stamp is not None:
        stamp.refuse_other(path, found)
    return whole


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
