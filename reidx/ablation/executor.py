"""Where runs are carried out: what every place for them offers, and what becomes of a run there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reidx.ablation.plan import Run


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``reason`` is one line on why it failed, None for a run that is done."""

    reason: str | None = None


class Handle(Protocol):
    """A run under way."""

    def outcome(self) -> Outcome | None:
        """How it ended; None while it goes on."""

    def stop(self) -> None:
        """End it, as soon as what it does allows; what it has committed stays."""


class Executor(Protocol):
    """A place for runs."""

    slots: int
    """How many runs it carries out at a time."""

    def start(self, run: Run) -> Handle:
        """Begin a run, or go on with it from its last checkpoint."""

    def close(self) -> None:
        """Nothing more will be started; what is under way was stopped."""


def arguments_of(run: Run) -> list[str]:
    """The command line of a run, after ``python -m reidx``."""
    places = ["--work-dir", str(run.folder), "--share", str(run.home / "shared")]
    return ["train", str(run.config_file), *places, "--resume", "--progress", "json"]


def prepare(run: Run) -> None:
    """Write the resolved config of a run, and make the folder of its log."""
    for path in (run.config_file, run.log):
        path.parent.mkdir(parents=True, exist_ok=True)
    run.config_file.write_text(run.config.render(), encoding="utf-8")


def reason_in(log: Path, begun_at: int) -> str:
    """Why a run failed, by what its log says after byte ``begun_at``: its error, else the last line that is no event."""
    with open(log, encoding="utf-8", errors="replace") as handle:
        handle.seek(begun_at)
        lines = [line.strip() for line in handle if line.strip() and not _is_event(line)]
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if errors:  # what follows an error belongs to it: the provenance that differ, say
        return " ".join(lines[errors[-1] :]).removeprefix("error: ")
    return lines[-1] if lines else "it ended without a word"


def _is_event(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
