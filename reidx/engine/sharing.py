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
from reidx.engine import checkpoint as checkpoints
from reidx.engine.stage_key import stage_key
from reidx.errors import ConfigError, RunError
from reidx.lifetimes import draft

ORIGIN = "shared.json"
"""In the folder of a stage that is shared: the run that it was taken over from, if it was. It is written last."""


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


# ---- files


def _copy(source: Path, folder: Path, more: Mapping[str, str] | None = None) -> None:
    """Make ``folder`` as a copy of a stage's, whole or not at all; ``more`` are further files by their text.

    Checkpoints are replaced and never written to, so the copy has the same files by another name where the disk can.
    """
    with draft(folder) as made:
        shutil.copytree(source, made, copy_function=_link, dirs_exist_ok=True)
        for name, text in (more or {}).items():
            (made / name).write_text(text, encoding="utf-8")
        os.rename(made, folder)


def _link(source: str, target: str) -> None:
    if source.endswith(".pth"):
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
