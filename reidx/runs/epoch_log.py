"""Log of a stage's committed epochs, one JSON line each in ``log.jsonl``; session count of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reidx import distributed
from reidx.errors import RunError
from reidx.runs import checkpoint as checkpoints

Report = dict[str, float]


class EpochLog:
    """Log of a stage's epochs at ``path``; ``also`` (the curves) receives each entry.

    The checkpoints hold the same history and take precedence: :meth:`begin` rewrites the file from it, so a torn or missing
    last line does no harm. A line that cannot be written is reported through ``message`` and written with the next one; the run
    continues. Each line ends with the fields of ``of``, which identify the run.
    """

    def __init__(
        self,
        path: Path,
        also: Callable[[Report], object] = lambda entry: None,
        message: Callable[[str], object] = lambda text: None,
        of: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.also, self.message, self.of = path, also, message, of or {}
        self._entries: list[Report] = []
        self._whole = True

    def begin(self, history: list[Report]) -> None:
        """Rewrite the log with the epochs committed so far."""
        self._entries = list(history)
        self._write()
        for entry in history:
            self.also(entry)

    def add(self, entry: Report) -> None:
        """Append a committed epoch."""
        if distributed.rank() > 0:
            return
        self._entries.append(entry)
        try:
            if self._whole:
                self._append(entry)
            else:
                self._write()
            self._whole = True
        except (OSError, RunError) as error:
            self._whole = False
            self.message(f"{self.path} is missing epoch {entry['epoch']:.0f}, which the checkpoint has: {error}")
        self.also(entry)

    def _write(self) -> None:
        checkpoints.write_text(self.path, "".join(json_line({**entry, **self.of}) + "\n" for entry in self._entries))

    def _append(self, entry: Report) -> None:
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json_line({**entry, **self.of}) + "\n")
            handle.flush()
            os.fsync(handle.fileno())


def epochs_in(path: Path) -> list[Report]:
    """Read the epochs of a log; empty without a file, and an incomplete last line is ignored.

    Raises :class:`ValueError` for any other malformed line.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    return [dict(json.loads(line)) for line in lines[:-1]]  # text after the last newline is an incomplete line, or empty


def json_line(facts: Mapping[str, Any]) -> str:
    """Encode ``facts`` as one line of strict JSON; infinities and NaN become null."""
    return json.dumps(_strict(facts), ensure_ascii=False, default=str)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def count_session(record: Path) -> int:
    """Increment the number of sessions in a run's record and return it."""
    known = json.loads(record.read_text(encoding="utf-8"))
    known["sessions"] = sessions_of(record) + 1
    checkpoints.write_text(record, json.dumps(known, indent=1))
    return known["sessions"]


def sessions_of(record: Path) -> int:
    """Number of sessions in a run's record: how often the run was started or resumed."""
    return int(json.loads(record.read_text(encoding="utf-8")).get("sessions", 0))
