"""Result of an experiment: the metrics of each stage, their table, and the card."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reidx.runs.conditions import condition_lines, conditions_of
from reidx.runs.epoch_log import Report
from reidx.runs.labels_file import NAME as LABELS_FILE
from reidx.runs.metrics import DEVIATION, METRICS, metric_names, metrics_in

LABELS = ("clusters", "outliers", "ari")
CLUSTERS = ("clusters", "outliers", "largest", "median_size", "stability", "ari")
"""Numbers of a labelling, for a run without an evaluation."""
SHARES = ("stability", "ari")
"""Numbers of a labelling that are at most 1."""
HEADINGS = {"ari": "ARI", "median_size": "median"}


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

    def labellings(self) -> dict[str, Report]:
        """The numbers and the epoch of the last labels of each labelling; its name is empty if the stage has one labelling."""
        found: dict[str, Report] = {}
        for entry in self.history:
            for key in (key for key in entry if key == "clusters" or key.endswith("/clusters")):
                prefix = key.removesuffix("clusters")
                numbers = {name: entry[prefix + name] for name in CLUSTERS if prefix + name in entry}
                found[prefix.removesuffix("/")] = {"epoch": entry["epoch"], **numbers}
        return found


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
    def labels_file(self) -> Path | None:
        """CSV table of the cluster of each image, of the last stage with labels, or None."""
        folders = [self.work_dir / f"{i + 1}-{stage.name}" for i, stage in enumerate(self.stages)]
        tables = [folder / LABELS_FILE for folder in folders if (folder / LABELS_FILE).is_file()]
        return tables[-1] if tables else None

    @property
    def metrics(self) -> Report:
        """mAP, rank-k, mINP and a protocol's metrics, as fractions, after the last epoch of the last stage, without re-ranking.

        ``mAP_sd`` and so on are the sample standard deviations (n − 1) over the trials of a protocol that draws some.
        """
        return metrics_in(self.stages[-1].last or self.stages[-1].before)

    @property
    def reranked(self) -> Report:
        """The same metrics with re-ranking; empty without ``evaluate.rerank``."""
        return metrics_in(self.stages[-1].last or self.stages[-1].before, reranked=True)

    def rows(self) -> list[tuple[str, Report]]:
        """Rows of the table: every evaluated state by name, followed by its re-ranked metrics, if any.

        The names of the metrics are those of :attr:`metrics`; the first of the rows also has the labels' numbers.
        """
        states: list[tuple[str, Report]] = []
        for stage in self.stages:
            if stage.before:
                states.append((f"before {stage.name}" if stage.history else stage.name, stage.before))
            if "mAP" in stage.last:
                states.append((f"{stage.name}, epoch {stage.last['epoch']:.0f}", stage.last))
        rows: list[tuple[str, Report]] = []
        for name, report in states:
            labels = {column: report[column] for column in LABELS if column in report}
            rows.append((name, {**metrics_in(report), **labels}))
            if better := metrics_in(report, reranked=True):
                rows.append(("  re-ranked", better))
        return rows

    def label_rows(self) -> list[tuple[str, Report]]:
        """Rows of the table of a run without an evaluation: the last labels of each stage and labelling."""
        rows = []
        for stage in self.stages:
            for name, report in stage.labellings().items():
                of = f", {name}" if name else ""
                rows.append((f"{stage.name}{of}, epoch {report['epoch']:.0f}", {k: report[k] for k in CLUSTERS if k in report}))
        return rows

    def conditions(self) -> list[str]:
        """Lines of at most 80 columns on the conditions of the numbers, above the table: protocol, distance, weights, …"""
        cards = self.card.get("stages", {})
        evaluated = [stage.name for stage in self.stages if stage.before or "mAP" in stage.last]
        return condition_lines({name: conditions_of(self.card, cards.get(name, {})) for name in evaluated}, "by stage")

    def table(self) -> str:
        """Conditions, then a table of all evaluated states, one per line.

        Columns: mAP, rank-1/5/10, mINP and a protocol's metrics in percent; clusters, outliers and ARI of stages with pseudo
        labels. The standard deviations over trials are in a line below. Without an evaluation, the table is that of the last
        labels: clusters, outliers, the largest and the median cluster, and the stability since the labels before.
        """
        rows = self.rows() or self.label_rows()
        found = dict.fromkeys(column for _, report in rows for column in report)
        shown = metric_names([*(METRICS if self.rows() else ()), *(column for column in found if column not in CLUSTERS)])
        shown += [column for column in CLUSTERS if column in found]
        lines = [("", [HEADINGS.get(column, column) for column in shown])]
        for name, report in rows:
            lines.append((name, [_cell(column, report.get(column)) for column in shown]))
            deviations = [report.get(f"{column}{DEVIATION}") for column in shown]
            if any(value is not None for value in deviations):
                lines.append(("  s.d. of trials", ["" if value is None else f"±{100 * value:.2f}" for value in deviations]))
        width = max(len(name) for name, _ in lines)
        text = [f"{name:<{width}}" + "".join(map(str.rjust, cells, map(_width, shown))) for name, cells in lines]
        conditions = self.conditions()
        return "\n".join([*conditions, *([""] if conditions else []), *(line.rstrip() for line in text)])


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if column in SHARES else f"{value:.0f}" if column in CLUSTERS else f"{100 * value:.2f}"


def _width(column: str) -> int:
    """Width of a column with the space before it: few, as the table must fit 80 columns."""
    return max(len(HEADINGS.get(column, column)), len("100.00")) + 1
