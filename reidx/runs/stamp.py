"""Whose a file of a run is: each says so itself, that another run's is never taken for it; and records that show an edit."""

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
"""The key of the stamp in a file."""


@dataclass(frozen=True)
class Stamp:
    """Whose the files of a stage are: the ``run`` (the hash of the config it began with), its ``seed``, the ``stage``.

    ``key`` (:func:`reidx.runs.stage_key.stage_key`) stands for all that decides the outcome: a stage that another run has
    trained with the same key is the same stage.
    """

    run: str
    seed: int
    stage: str
    key: str

    def refuse_other(self, path: Path, found: Any) -> None:
        """Raise :class:`CheckpointError` unless ``found``, the stamp in file ``path``, is of this stage."""
        if isinstance(found, Mapping) and found.get("key") == self.key:
            return
        theirs = f"is of another run ({_said(found)})" if isinstance(found, Mapping) else "does not name its run"
        raise CheckpointError(
            f"{path} {theirs}; this run is {_said(asdict(self))}. Put this run's file back, or delete {path.parent} to train "
            "the stage again."
        )


def refuse_foreign(folder: Path, stamp: Stamp) -> None:
    """Raise :class:`CheckpointError` for the first file in the folder of a stage that is of another run.

    Files that are damaged are passed over: what becomes of them is decided where they are read.
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
    """The stamp in a checkpoint, None if it has none; weights stay on the disk. Raises as :func:`load_tensors` does."""
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


def _said(of: Mapping[str, Any]) -> str:
    names = {"stage": "stage", "seed": "seed", "run": "config", "key": "key"}
    return ", ".join(f"{name} {of[key]}" for key, name in names.items() if key in of)


# ---- records


def sealed(content: Mapping[str, Any], stamp: Stamp | None) -> str:
    """A record of a stage as JSON: its stamp, the content, and the checksum of both."""
    whole = {STAMP: None if stamp is None else asdict(stamp), **content}
    return json.dumps({**whole, "sha256": _sum(whole)}, indent=1)


def write_sealed(path: Path, content: Mapping[str, Any], stamp: Stamp | None) -> None:
    """Write a record of a stage, see :func:`sealed`."""
    write_text(path, sealed(content, stamp))


def read_sealed(path: Path, stamp: Stamp | None = None) -> dict[str, Any]:
    """The content of a record of a stage.

    Raises :class:`CheckpointError` where it is damaged, was edited, or is not of ``stamp`` (None: of any stage).
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
            why = "it was edited or damaged: its checksum does not fit"
    if why or whole is None:
        raise CheckpointError(
            f"{path} cannot be read ({why}). Delete it and use --resume, which makes it again from the last checkpoint."
        )
    found = whole.pop(STAMP, None)
    if stamp is not None:
        stamp.refuse_other(path, found)
    return whole


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
