"""Sections on the runs themselves: overview, metrics with their conditions, differences, cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reidx.ablation.comparison import compare
from reidx.html.blocks import Folded, Lines, Missing, Section, Table, Text
from reidx.html.source import Source
from reidx.reporting.displays import duration
from reidx.runs.conditions import condition_lines, conditions_of, unfolded
from reidx.runs.epoch_log import Report
from reidx.runs.metrics import metric_names, percent
from reidx.runs.result import LABELS, Result

FEW = 15
"""Rows of a table of differences that is not folded."""


def overview(sources: Sequence[Source]) -> Section:
    """The runs: state, method, data, epochs, time, and the latest metrics."""
    names = metric_names(name for source in sources for name in source.run.metrics)
    head = ["run", "state", "method", "data", "seed", "epochs", "time", *names]
    rows = []
    for source in sources:
        run = source.run
        done, planned = run.epochs
        numbers = [percent(run.metrics, name) if name in run.metrics else "–" for name in names]
        seed = str((run.config or {}).get("seed", "–"))
        facts = [run.state, run.method, run.data, seed, f"{done} of {planned}", duration(run.seconds)]
        rows.append([source.name, *facts, *numbers])
    blocks: list[object] = [Table("Runs and their latest metrics in percent", head, rows)]
    blocks += [Text(f"{source.name} {source.run.state}: {source.run.reason}") for source in sources if source.run.reason]
    return Section("overview", "Overview", "", blocks)


def metrics(sources: Sequence[Source]) -> Section:
    """The metrics of each stage of each run, below the conditions on which they depend."""
    rows: list[tuple[str, str, Report]] = []
    conditions: dict[str, dict[str, str]] = {}
    for source in sources:
        card = dict(source.run.card or {"stages": source.run.cards})
        result = Result(source.run.folder, list(source.run.stages), card)
        rows += [(source.name, title.strip(), report) for title, report in result.rows()]
        for stage in (stage.name for stage in result.stages if stage.before or "mAP" in stage.last):
            name = source.name if len(result.stages) == 1 else f"{source.name} {stage}"
            conditions[name] = conditions_of(card, card["stages"].get(stage, {}))
    if not rows:
        return Section("metrics", "Metrics", "", [Missing("No stage has been evaluated yet.")])
    names = metric_names(name for _, _, report in rows for name in report if name not in LABELS)
    cells = [[run, title, *(percent(report, n) if n in report else "–" for n in names)] for run, title, report in rows]
    blocks: list[object] = [
        Lines([part for line in unfolded(condition_lines(conditions, "differs")) for part in line.split(" · ")]),
        Table("Metrics in percent", ["run", "stage", *names], cells),
    ]
    intro = "Each number depends on the conditions above it. The last epoch is reported, not the best one."
    return Section("metrics", "Metrics", intro, blocks)


def differences(sources: Sequence[Source]) -> Section | None:
    """The differences of several runs in config, code and data; None for a single run."""
    if len(sources) < 2:
        return None
    found = compare([source.run.folder for source in sources])
    blocks: list[object] = []
    for title, rows in (("Config", found.config), ("Code, versions and data", found.provenance)):
        table = Table(title, ["key", *found.names], rows)
        shown = table if len(rows) <= FEW else Folded(f"{title}: {len(rows)} keys differ", [table])
        blocks.append(shown if rows else Text(f"{title}: no difference."))
    return Section("differences", "Differences", "Only the keys that differ.", blocks)


def cards(sources: Sequence[Source]) -> Section:
    """All facts of each run's card."""
    blocks: list[object] = []
    for source in sources:
        facts = source.run.card or source.run.cards
        if facts:
            title = f"Card of {source.name}"
            blocks.append(Folded(title, [Table(title, ["fact", "value"], leaves(facts))]))
        else:
            blocks.append(Missing(f"{source.name} has no card yet: it is written when a stage is finished."))
    return Section("card", "Card", "Everything that is needed to interpret the numbers.", blocks)


def leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    """The leaves of nested mappings as rows of dotted path and text."""
    if isinstance(value, Mapping) and value:
        return [row for key, inner in value.items() for row in leaves(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple):
        return [(path, ", ".join(map(str, value)) or "none")]
    return [(path, "none" if value in (None, {}, "") else f"{value:,}" if type(value) is int else str(value))]
