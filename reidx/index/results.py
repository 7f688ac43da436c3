"""Results of a search for people and for other programs: a table, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from reidx.index.index import Found, Index
from reidx.index.rows import UNKNOWN
from reidx.index.times import show_time
from reidx.runs.checkpoint import write_atomically


@dataclass(frozen=True)
class Result:
    """One image that a query found; ``id`` and ``camera`` are None and ``time`` is empty where they are not known."""

    query: str
    rank: int
    similarity: float
    id: int | None
    camera: int | None
    time: str
    row: int
    path: str


def ranked_results(index: Index, found: Found, number: int, query: str) -> list[Result]:
    """Return the results of query ``number`` of a search, best first."""
    rows = index.rows

    def known(column: np.ndarray | None, row: int) -> int | None:
        return None if column is None or int(column[row]) == UNKNOWN else int(column[row])

    return [
        Result(
            query=query,
            rank=rank,
            similarity=round(float(similarity), 6),
            id=known(rows.ids, row),
            camera=known(rows.cameras, row),
            time="" if rows.times is None else show_time(float(rows.times[row]), rows.time_form),
            row=row,
            path=rows.paths[row],
        )
        for rank, (row, similarity) in enumerate(
            zip(found.rows[number].tolist(), found.similarities[number].tolist(), strict=True), start=1
        )
    ]


def common_folder(results: Sequence[Result]) -> str:
    """Return the deepest folder that has the images of all results below it."""
    return os.path.commonpath([os.path.dirname(result.path) for result in results])


def columns_of(results: Sequence[Result], folder: str) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for a terminal, paths below ``folder``; columns of which nothing is known are left out."""
    shown = ["rank", "similarity", "id", "camera", "time"]
    shown = [name for name in shown if any(getattr(result, name) not in (None, "") for result in results)]
    rows = [[_text(getattr(result, name)) for name in shown] for result in results]
    return [*shown, "path"], [[*row, os.path.relpath(result.path, folder)] for row, result in zip(rows, results, strict=True)]


def _text(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write all results of all queries into a ``.csv`` or ``.json`` file."""
    text = json.dumps([asdict(result) for result in results], indent=1) + "\n" if path.suffix == ".json" else _csv(results)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", errors="surrogateescape"), "run it again")


def _csv(results: Sequence[Result]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(result) for result in results)
    return text.getvalue()
