"""The table of several runs tested on several data sets: conditions, rows, and files as Markdown, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reidx.errors import ConfigError
from reidx.runs.checkpoint import write_text
from reidx.runs.conditions import condition_lines, conditions_of, unfolded
from reidx.runs.metrics import DEVIATION, METRICS, RERANKED, metric_names
from reidx.runs.result import Result


@dataclass(frozen=True)
class Cell:
    """A run tested on a set: its result, or the reason why there is none."""

    run: str
    on: str
    result: Result | None
    reason: str = ""

    @property
    def card(self) -> dict[str, Any]:
        """The card of the evaluation; empty without a result."""
        return {} if self.result is None else next(iter(self.result.card["stages"].values()))

    def conditions(self) -> dict[str, str]:
        """Conditions of the numbers by name, without the seed of a test, which draws nothing."""
        return {} if self.result is None else conditions_of(self.result.card, self.card, seed=False)


def conditions(cells: Sequence[Cell]) -> list[str]:
    """Lines on the conditions: those of all cells, then those that differ by set, by run, or by both."""
    known = [cell for cell in cells if cell.result is not None]
    facts = {(cell.run, cell.on): cell.conditions() for cell in known}
    names = _short_names([cell.run for cell in cells])
    by_set, by_run, by_both = [], [], []
    for fact in dict.fromkeys(name for found in facts.values() for name in found):
        texts = {place: found.get(fact) for place, found in facts.items()}
        if _depends_on(texts, lambda run, on: on):
            by_set.append(fact)
        elif _depends_on(texts, lambda run, on: run):
            by_run.append(fact)
        else:
            by_both.append(fact)

    def lines(chosen: list[str], differ: str, name: Callable[[str, str], str]) -> list[str]:
        parts = {name(*place): {fact: found[fact] for fact in chosen if fact in found} for place, found in facts.items()}
        return condition_lines(parts, differ)

    return [
        *lines(by_set, "by set", lambda run, on: on),
        *lines(by_run, "by run", lambda run, on: names[run]),
        *lines(by_both, "by run and set", lambda run, on: f"{names[run]} on {on}"),
    ]


def _depends_on(texts: Mapping[tuple[str, str], str | None], key: Callable[[str, str], str]) -> bool:
    """Return True if the texts are equal wherever the keys are."""
    return len({(key(*place), text) for place, text in texts.items()}) == len({key(*place) for place in texts})


def table(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: run, set, and the metrics in percent; re-ranked metrics and deviations have separate rows."""
    found = [(cell, [] if cell.result is None else cell.result.rows()) for cell in cells]
    metrics = metric_names([*METRICS, *(name for _, rows in found for _, report in rows for name in report)])
    names = _short_names([cell.run for cell in cells])
    lines = []
    for cell, rows in found:
        if not rows:
            lines.append([names[cell.run], cell.on, *("–" for _ in metrics)])
        for number, (_, report) in enumerate(rows):
            where = [names[cell.run], cell.on] if number == 0 else ["", "  re-ranked"]
            lines.append([*where, *(_percent(report, name) for name in metrics)])
            if any(name.endswith(DEVIATION) for name in report):
                lines.append(["", "  s.d.", *(_percent(report, f"{name}{DEVIATION}", "±") for name in metrics)])
    return ["run", "set", *metrics], lines


def failures(cells: Sequence[Cell]) -> list[str]:
    """A line for each cell without a result."""
    return [f"not tested: {cell.run} on {cell.on}: {cell.reason}" for cell in cells if cell.result is None]


def _percent(report: Mapping[str, float], name: str, sign: str = "") -> str:
    return f"{sign}{100 * report[name]:.2f}" if name in report else "" if sign else "–"


def _short_names(runs: Sequence[str]) -> dict[str, str]:
    """Names of the folders, or their paths where two have the same name."""
    short = {run: Path(run).resolve().name for run in runs}
    return short if len(set(short.values())) == len(short) else {run: run for run in short}


# ---- files


def check_suffix(path: Path) -> None:
    """Raise :class:`ConfigError` unless a table can be written to ``path``."""
    if path.suffix not in _WRITERS:
        raise ConfigError(f"--out {path}: the suffix sets the form; use {', '.join(_WRITERS)}.")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}.")


def write_table(path: Path, cells: Sequence[Cell]) -> None:
    """Write all cells to ``path``, in the form of its suffix, atomically."""
    write_text(path, _WRITERS[path.suffix](cells))


def _markdown(cells: Sequence[Cell]) -> str:
    head, rows = table(cells)

    def line(texts: Iterable[str]) -> str:
        return f"| {' | '.join(text.strip().replace('|', chr(92) + '|') for text in texts)} |"

    notes = [line.strip() for line in unfolded(conditions(cells))]
    body = [line(head), line(["---"] * 2 + ["--:"] * (len(head) - 2)), *map(line, rows)]
    failed = [f"* {text}" for text in failures(cells)]
    parts = [[f"* {note}" for note in notes], body, ["Percent."], failed]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _records(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        evaluation = cell.card.get("evaluation", {})
        reranked = {} if cell.result is None else cell.result.reranked
        yield {
            "run": cell.run,
            "set": cell.on,
            "state": "failed" if cell.result is None else "tested",
            "reason": cell.reason or None,
            "weights": cell.card.get("tested"),
            **{name: evaluation.get(name) for name in ("protocol", "protocol_version", "metric", "flip")},
            **({} if cell.result is None else cell.result.metrics),
            **{f"{RERANKED}{name}": value for name, value in reranked.items()},
        }


def _json(cells: Sequence[Cell]) -> str:
    cards = ({} if cell.result is None else cell.result.card for cell in cells)
    return json.dumps([{**record, "card": card} for record, card in zip(_records(cells), cards)], indent=1) + "\n"


def _csv(cells: Sequence[Cell]) -> str:
    records = list(_records(cells))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


_WRITERS: dict[str, Callable[[Sequence[Cell]], str]] = {".md": _markdown, ".json": _json, ".csv": _csv}
