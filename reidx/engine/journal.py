"""The epochs of a stage as they are committed: a JSON line each in its ``log.jsonl``; and how many legs a run took."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reidx import processes
from reidx.engine import checkpoint as checkpoints

Report = dict[str, float]


class Journal:
    """Writes what a stage's epochs came to into ``path``, and hands it to ``also`` (the curves).

    The checkpoints hold the same history and decide: :meth:`begin` writes the file anew from it. So a line that a kill
    has torn, or that was not written any more, does no harm.
    """

    def __init__(self, path: Path, also: Callable[[Report], object] = lambda entry: None) -> None:
        self.path, self.also = path, also

    def begin(self, history: list[Report]) -> None:
        """The stage begins with these epochs committed already."""
        checkpoints.write_text(self.path, "".join(json_line(entry) + "\n" for entry in history))
        for entry in history:
            self.also(entry)

    def add(self, entry: Report) -> None:
        """One more epoch is committed."""
        if processes.rank() > 0:
            return
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json_line(entry) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.also(entry)


def json_line(facts: Mapping[str, Any]) -> str:
    """Strict JSON on one line: numbers that JSON does not know (infinite, not a number) become null."""
    return json.dumps(_strict(facts), ensure_ascii=False, default=str)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def count_leg(record: Path) -> int:
    """How many times the run of a record has been started or resumed, this time included; noted in the record."""
    known = json.loads(record.read_text(encoding="utf-8"))
    known["legs"] = legs_of(record) + 1
    checkpoints.write_text(record, json.dumps(known, indent=1))
    return known["legs"]


def legs_of(record: Path) -> int:
    """How many times the run of a record has been started or resumed so far."""
    return int(json.loads(record.read_text(encoding="utf-8")).get("legs", 0))
