"""Executors of runs: their protocol, and the outcome of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reidx.ablation.plan import Run


@dataclass(frozen=True)
class Outcome:
    """End of a run; ``reason`` is one line on its failure, None for a finished run."""

    reason: str | None = None


class Handle(Protocol):
    """A run in progress."""

    def outcome(self) -> Outcome | None:
        """Return the outcome of the run, or None while it is running."""

    def stop(self) -> None:
        """Stop the run as soon as possible; its committed epochs are kept."""


class Executor(Protocol):
    """A place where runs are executed."""

    slots: int
    """Maximum number of concurrent runs."""

    def start(self, run: Run) -> Handle:
        """Start a run, or resume it from its last checkpoint."""

    def close(self) -> None:
        """Release all resources; called after the last run has ended or been stopped."""


def arguments_of(run: Run) -> list[str]:
    """Command-line arguments of a run, after ``python -m reidx``."""
    places = ["--work-dir", str(run.folder), "--share", str(run.home / "shared")]
    return ["train", str(run.config_file), *places, "--resume", "--progress", "json"]


def prepare(run: Run) -> None:
    """Write the resolved config of a run and create the folder of its log."""
    for path in (run.config_file, run.log):
        path.parent.mkdir(parents=True, exist_ok=True)
    run.config_file.write_text(run.config.render(), encoding="utf-8")


def reason_in(log: Path, begun_at: int) -> str:
    """Reason of a failure from a run's log after byte ``begun_at``: its error, otherwise the last line that is no event."""
    with open(log, encoding="utf-8", errors="replace") as handle:
        handle.seek(begun_at)
        lines = [line.strip() for line in handle if line.strip() and not _is_event(line)]
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if errors:  # the lines after an error belong to it, for example a list of differences
        return " ".join(lines[errors[-1] :]).removeprefix("error: ")
    return lines[-1] if lines else "it ended without a message"


def _is_event(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
