"""Stages that runs have in common, trained once: a shared folder keeps finished ones by all that decides their outcome."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reidx.config.config import Config
from reidx.errors import CheckpointError, ConfigError, RunError
from reidx.machine.lifetimes import draft
from reidx.runs import checkpoint as checkpoints
from reidx.runs.stage_key import stage_key
from reidx.runs.stamp import Stamp, read_sealed, refuse_foreign, sealed, write_sealed

ORIGIN = "shared.json"
"""In the folder of a stage that is shared: the run that it was taken over from, if it was. It is written last."""


class Shared:
    """The finished stages of all runs that share a folder.

    A stage is found by its :func:`stage_key`, so it is only taken over where it would come out the same.
    """

    def __init__(self, folder: Path, config: Config, provenance: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.folder, self.config, self.provenance, self.say = folder, config, provenance, say
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
        try:
            self._verify(number, there)
            _copy(there, path)
        except (CheckpointError, OSError) as error:
            self.say(f"stage {stage.name}: its shared copy in {there} is damaged; the stage is trained again ({error})")
            return False
        self.say(f"stage {stage.name}: taken over from {trained_in(path)}, which has trained the same")
        return True

    def leave(self, number: int, path: Path, stamp: Stamp | None) -> None:
        """Let other runs take over stage ``number``, finished in ``path``. That it cannot be left ends no run."""
        there = self._stage(number)
        if stamp is None or stamp.key != self._key(number):  # it was begun under other provenance
            return
        try:
            try:
                _copy(path, there, {ORIGIN: sealed({"trained_in": str(path.parent.resolve())}, stamp)})
            except OSError:
                if not there.is_dir():  # else another run was first, with the same
                    raise
            write_sealed(path / ORIGIN, {"trained_in": None}, stamp)
        except (OSError, RunError) as error:
            self.say(f"{there}: the stage cannot be shared ({error})")

    def _stage(self, number: int) -> Path:
        return self.folder / f"{self.config.experiment.stages[number].name}-{self._key(number)}"

    def _key(self, number: int) -> str:
        return stage_key(self.config, number, self.provenance)

    def _verify(self, number: int, there: Path) -> None:
        """Raise :class:`CheckpointError` unless ``there`` is stage ``number``, whole and as it was left."""
        stage = self.config.experiment.stages[number]
        stamp = Stamp(self.config.hash, self.config.experiment.seed, stage.name, self._key(number))
        if stage.epochs and checkpoints.newest(there) != there / f"epoch_{stage.epochs}.pth":
            raise CheckpointError(f"its last checkpoint is incomplete, or not epoch_{stage.epochs}.pth")
        refuse_foreign(there, stamp)
        done = read_sealed(there / "done.json", stamp)
        if done.get("checkpoint") != checkpoints.checksum_of(there / f"epoch_{stage.epochs}.pth"):
            raise CheckpointError(f"its last checkpoint is not the one that {there / 'done.json'} was written with")
        if len(done["history"]) != stage.epochs:
            raise CheckpointError(f"{there / 'done.json'} has another number of epochs")
        trained_in(there)


def trained_in(path: Path) -> str | None:
    """The folder of the run that a stage, in folder ``path``, was taken over from; None if it was trained there."""
    origin = path / ORIGIN
    return read_sealed(origin)["trained_in"] if origin.is_file() else None


# ---- files


def _copy(source: Path, folder: Path, more: Mapping[str, str] | None = None) -> None:
    """Make ``folder`` as a copy of a stage's, whole or not at all; ``more`` are further files by their text.

    Checkpoints are replaced and never written to, so the copy has the same files by another name where the disk can.
    """
    with draft(folder) as made, os.scandir(source) as entries:
        for entry in entries:  # neither folders nor links, which lead elsewhere
            if entry.is_file(follow_symlinks=False):
                _link(entry.path, str(made / entry.name))
        for name, text in (more or {}).items():
            (made / name).write_text(text, encoding="utf-8")
        os.rename(made, folder)


def _link(source: str, target: str) -> None:
    if source.endswith(".pth"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
