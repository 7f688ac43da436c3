"""Cache of finished stages, shared by runs and keyed by everything that determines a stage's outcome."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reidx.config.config import Config
from reidx.errors import CheckpointError, ConfigError, RunError
from reidx.machine.lifetimes import replacement_folder
from reidx.runs import checkpoint as checkpoints
from reidx.runs.stage_key import stage_key
from reidx.runs.stamp import Stamp, read_sealed, refuse_foreign, sealed, write_sealed

ORIGIN = "shared.json"
"""File in a shared stage's folder, written last, with the run that trained the stage if it was another."""


class Shared:
    """Finished stages of all runs that share ``folder``, by :func:`stage_key`.

    Equal keys mean equal outcomes, so a stage is copied only where training would give the same result.
    """

    def __init__(self, folder: Path, config: Config, provenance: Mapping[str, Any], message: Callable[[str], None]) -> None:
        self.folder, self.config, self.provenance, self.message = folder, config, provenance, message
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--share {folder}: {error.strerror} ({error.filename}). Name another folder.") from error

    def fetch(self, number: int, path: Path) -> bool:
        """Copy stage ``number``, finished by another run, to ``path``.

        Returns false if the cache does not hold the stage, its copy is damaged, or ``path`` exists.
        """
        there = self._stage(number)
        stage = self.config.experiment.stages[number]
        if path.exists() or not there.is_dir():
            return False
        try:
            self._verify(number, there)
            _copy(there, path)
        except (CheckpointError, OSError) as error:
            self.message(f"stage {stage.name}: its shared copy in {there} is damaged; the stage is trained again ({error})")
            return False
        self.message(f"stage {stage.name}: reused from {trained_in(path)}, which trained the same stage")
        return True

    def store(self, number: int, path: Path, stamp: Stamp | None) -> None:
        """Copy stage ``number``, finished in ``path``, into the cache; a failure is only reported."""
        there = self._stage(number)
        if stamp is None or stamp.key != self._key(number):  # started with different provenance
            return
        try:
            try:
                _copy(path, there, {ORIGIN: sealed({"trained_in": str(path.parent.resolve())}, stamp)})
            except OSError:
                if not there.is_dir():  # otherwise another run has stored the same stage first
                    raise
            write_sealed(path / ORIGIN, {"trained_in": None}, stamp)
        except (OSError, RunError) as error:
            self.message(f"{there}: the stage cannot be shared ({error})")

    def _stage(self, number: int) -> Path:
        return self.folder / f"{self.config.experiment.stages[number].name}-{self._key(number)}"

    def _key(self, number: int) -> str:
        return stage_key(self.config, number, self.provenance)

    def _verify(self, number: int, there: Path) -> None:
        """Raise :class:`CheckpointError` unless ``there`` holds stage ``number``, complete and unmodified."""
        stage = self.config.experiment.stages[number]
        stamp = Stamp(self.config.hash, self.config.experiment.seed, stage.name, self._key(number))
        if stage.epochs and checkpoints.newest(there) != there / f"epoch_{stage.epochs}.pth":
            raise CheckpointError(f"its last checkpoint is incomplete, or not epoch_{stage.epochs}.pth")
        refuse_foreign(there, stamp)
        done = read_sealed(there / "done.json", stamp)
        if done.get("checkpoint") != checkpoints.checksum_of(there / f"epoch_{stage.epochs}.pth"):
            raise CheckpointError(f"its last checkpoint does not match {there / 'done.json'}")
        if len(done["history"]) != stage.epochs:
            raise CheckpointError(f"{there / 'done.json'} has a different number of epochs")
        trained_in(there)


def trained_in(path: Path) -> str | None:
    """Folder of the run that trained the stage in ``path``; None if the stage was trained in place."""
    origin = path / ORIGIN
    return read_sealed(origin)["trained_in"] if origin.is_file() else None


# ---- files


def _copy(source: Path, folder: Path, more: Mapping[str, str] | None = None) -> None:
    """Copy a stage's folder to ``folder`` atomically; ``more`` maps names of additional files to their text.

    Checkpoints are replaced and never modified in place, so they are hard-linked where the file system allows it.
    """
    with replacement_folder(folder) as made, os.scandir(source) as entries:
        for entry in entries:  # neither folders nor symbolic links, which may point elsewhere
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
