"""Result of an experiment: the metrics of each stage, their table, and the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reidx.runs.conditions import condition_lines, conditions_of
from reidx.runs.epoch_log import Report

METRICS = ("mAP", "rank-1", "rank-5", "rank-10", "mINP")
RERANKED = {f"reranked_{name}": name for name in METRICS}
"""The names of the re-ranked metrics in the report of an epoch."""
LABELS = ("clusters", "outliers", "ari")


@dataclass
class StageResult:
    """Result of a stage: metrics ``before`` the first epoch (empty if not evaluated) and the ``history`` of its epochs."""

    name: str
    before: Report = field(default_factory=dict)
    history: list[Report] = field(default_factory=list)

    @property
    def last(self) -> Report:
        """Report of the last epoch; empty for a stage without epochs."""
        return self.history[-1] if self.history else {}


@dataclass
class Result:
    """Result of an experiment: its stages, its card, and its folder."""

    work_dir: Path
    stages: list[StageResult]
    card: dict[str, Any]

    @property
    def ranked_list(self) -> Path | None:
        """Picture of the ranked lists of the last evaluated stage, or None."""
        folders = [self.work_dir / f"{i + 1}-{stage.name}" for i, stage in enumerate(self.stages)]
        pictures = [folder / "ranked.png" for folder in folders if (folder / "ranked.png").is_file()]
        return pictures[-1] if pictures else None

    @property
    def metrics(self) -> Report:
        """mAP, rank-k and mINP, as fractions, after the last epoch of the last stage, without re-ranking."""
        last = self.stages[-1].last or self.stages[-1].before
        return {name: last[name] for name in METRICS if name in last}

    @property
    def reranked(self) -> Report:
        """The same metrics with re-ranking; empty without ``evaluate.rerank``."""
        return reranked(self.stages[-1].last or self.stages[-1].before)

    def rows(self) -> list[tuple[str, Report]]:
        """Rows of the table: every evaluated state by name, followed by its re-ranked metrics, if any."""
        states: list[tuple[str, Report]] = []
        for stage in self.stages:
            if stage.before:
                states.append((f"before {stage.name}" if stage.history else stage.name, stage.before))
            if "mAP" in stage.last:
                states.append((f"{stage.name}, epoch {stage.last['epoch']:.0f}", stage.last))
        rows: list[tuple[str, Report]] = []
        for name, report in states:
            rows.append((name, report))
            if better := reranked(report):
                rows.append(("  re-ranked", better))
        return rows

    def conditions(self) -> list[str]:
        """Lines of at most 80 columns on the conditions of the numbers, above the table: protocol, distance, weights, …"""
        cards = self.card.get("stages", {})
        evaluated = [stage.name for stage in self.stages if stage.before or "mAP" in stage.last]
        return condition_lines({name: conditions_of(self.card, cards.get(name, {})) for name in evaluated}, "by stage")

    def table(self) -> str:
        """Conditions, then a table of all evaluated states, one per line.

        Columns: mAP, rank-1/5/10 and mINP in percent; clusters, outliers and ARI of stages with pseudo labels.
        """
        rows = self.rows()
        width = max((len(name) for name, _ in rows), default=0)
        shown = [column for column in COLUMNS if column in METRICS or any(column in report for _, report in rows)]
        head = {column: "ARI" if column == "ari" else column for column in shown}
        lines = [" " * width + "".join(head[column].rjust(_width(column)) for column in shown)]
        for name, report in rows:
            cells = (COLUMNS[column](report[column]) if column in report else "-" for column in shown)
            lines.append(f"{name:<{width}}" + "".join(cell.rjust(_width(column)) for cell, column in zip(cells, shown)))
        conditions = self.conditions()
        return "\n".join([*conditions, *([""] if conditions else []), *lines])


COLUMNS: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(METRICS, lambda value: f"{100 * value:.2f}"),
    **dict.fromkeys(("clusters", "outliers"), lambda value: f"{value:.0f}"),
    "ari": lambda value: f"{value:.3f}",
}
"""Columns of the table, each with the format of its cells."""


def _width(column: str) -> int:
    """Width of a column with the space before it: few, as the table must fit 80 columns."""
    return max(len(column), len("100.00")) + 1


def reranked(report: Report) -> Report:
    """The re-ranked metrics in the report of an epoch, by the names of :data:`METRICS`."""
    return {name: report[key] for key, name in RERANKED.items() if key in report}
