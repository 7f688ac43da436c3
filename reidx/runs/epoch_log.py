"""The epochs of a stage as they are committed: a JSON line each in its ``log.jsonl``; and how many sessions a run took."""

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
    """Writes what a stage's epochs came to into ``path``, and hands it to ``also`` (the curves).

    The checkpoints hold the same history and decide: :meth:`begin` writes the file anew from it. So a line that a kill
    has torn, or that was not written any more, does no harm; one that cannot be written (which is told to ``say``) ends no
    run, and is written with the next. Each line ends with ``of``, which says whose it is.
    """

    def __init__(
        self,
        path: Path,
        also: Callable[[Report], object] = lambda entry: None,
        say: Callable[[str], object] = lambda text: None,
        of: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.also, self.say, self.of = path, also, say, of or {}
        self._entries: list[Report] = []
        self._whole = True

    def begin(self, history: list[Report]) -> None:
        """The stage begins with these epochs committed already."""
        self._entries = list(history)
        self._write()
        for entry in history:
            self.also(entry)

    def add(self, entry: Report) -> None:
        """One more epoch is committed."""
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
            self.say(f"{self.path} lacks epoch {entry['epoch']:.0f}, which the checkpoint has: {error}")
        self.also(entry)

    def _write(self) -> None:
        checkpoints.write_text(self.path, "".join(json_line({**entry, **self.of}) + "\n" for entry in self._entries))

    def _append(self, entry: Report) -> None:
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json_line({**entry, **self.of}) + "\n")
            handle.flush()
            os.fsync(handle.fileno())


def epochs_in(path: Path) -> list[Report]:
    """The epochs that a journal holds, none if there is no file; a last line that a kill has torn does not count.

    Raises :class:`ValueError` for another line that is none of a journal's.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    return [dict(json.loads(line)) for line in lines[:-1]]  # what is behind the last line's end is torn, or nothing


def json_line(facts: Mapping[str, Any]) -> str:
    """Strict JSON on one line: numbers that JSON does not know (infinite, not a number) become null."""
    return json.dumps(_strict(facts), ensure_ascii=False, default=str)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def count_session(record: Path) -> int:
    """How many times the run of a record has been started or resumed, this time included; noted in the record."""
    known = json.loads(record.read_text(encoding="utf-8"))
    known["sessions"] = sessions_of(record) + 1
    checkpoints.write_text(record, json.dumps(known, indent=1))
    return known["sessions"]


def sessions_of(record: Path) -> int:
    """How many times the run of a record has been started or resumed so far."""
    return int(json.loads(record.read_text(encoding="utf-8")).get("sessions", 0))
