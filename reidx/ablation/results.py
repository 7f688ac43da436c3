"""Results of a plan: a record of each run, and the scores of each combination by seed."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from reidx.ablation.plan import Plan, Row, Run
from reidx.ablation.statistics import Difference, Spread, paired, spread
from reidx.runs.checkpoint import write_atomically, write_text
from reidx.runs.conditions import condition_lines, conditions_of
from reidx.runs.manifest import RECORD, differences
from reidx.runs.metrics import METRICS, metric_names, metric_of

SHOWN = ("mAP", "rank-1", "mINP")
"""Standard metrics in the tables; the records hold all."""


@dataclass(frozen=True)
class Choice:
    """Comparison of a value of an axis with the axis's first value, over all pairs of rows that are equal otherwise.

    ``of_pairs`` holds the difference of each pair, averaged over the seeds of ``difference``; its range shows the dependence
    on the other axes. ``difference`` is None and ``of_pairs`` empty until all pairs are done for some seed.
    """

    axis: str
    label: str
    against: str
    pairs: int
    difference: Difference | None
    of_pairs: tuple[float, ...]


@dataclass(frozen=True)
class Results:
    """Results of a plan so far; ``failed`` holds the reasons of failed runs, by hash."""

    plan: Plan
    failed: Mapping[str, str]

    @cached_property
    def found(self) -> dict[str, dict[str, Any]]:
        """Results of the finished runs, by hash; read once, at the first access."""
        return {run.hash: result for run in self.plan.runs if (result := run.result()) is not None}

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all metrics: the standard ones, then those of the protocols."""
        return metric_names([*METRICS, *(name for result in self.found.values() for name in result["metrics"])])

    @property
    def shown(self) -> list[str]:
        """Names of the metrics in the tables: some of the standard ones, and those of the protocols."""
        return [name for name in self.metrics if name in SHOWN or name not in METRICS]

    def scores(self, row: Row, metric: str) -> dict[int, float]:
        """Metric of a combination's finished runs, in percent, by seed."""
        known = {seed: self.found[run.hash]["metrics"] for seed, run in row.runs.items() if run.hash in self.found}
        return {seed: 100 * metrics[metric] for seed, metrics in known.items() if metric in metrics}

    def spread(self, row: Row, metric: str) -> Spread | None:
        """Mean and standard deviation over seeds; None if no run is finished."""
        return spread(self.scores(row, metric))

    def difference(self, row: Row, metric: str) -> Difference | None:
        """Difference from the base, paired by seed; None for the base itself and without common seeds."""
        base = self.plan.rows[0]
        return None if row is base else paired(self.scores(row, metric), self.scores(base, metric))

    def choices(self, metric: str) -> list[Choice]:
        """Compare each value of each axis of a full design with the axis's first, over all settings of the other axes.

        The seeds are the samples: the differences of all pairs are averaged within a seed first, because they share its
        randomness. Only seeds in which all pairs are done count, so that every seed has the same pairs. A choice without an
        allowed pair is omitted. Empty for other designs and for fewer than two axes with several values, where the rows
        suffice.
        """
        axes = self.plan.grid.axes
        if self.plan.grid.design != "full" or sum(len(axis.values) > 1 for axis in axes) < 2:
            return []
        scores = {tuple(row.labels.values()): self.scores(row, metric) for row in self.plan.rows if row.runs}
        found = []
        for place, axis in enumerate(axes):
            first = axis.values[0].label
            for value in axis.values[1:]:
                pairs = [
                    (own, other)
                    for labels, own in scores.items()
                    if labels[place] == value.label
                    and (other := scores.get((*labels[:place], first, *labels[place + 1 :]))) is not None
                ]
                if not pairs:
                    continue
                seeds = [seed for seed in self.plan.grid.seeds if all(seed in own and seed in other for own, other in pairs)]
                with_it, without = ({s: fmean(pair[side][s] for pair in pairs) for s in seeds} for side in (0, 1))
                of_pairs = tuple(fmean(own[s] - other[s] for s in seeds) for own, other in pairs) if seeds else ()
                found.append(Choice(axis.name, value.label, first, len(pairs), paired(with_it, without), of_pairs))
        return found

    def card(self, row: Row) -> Path:
        """Path of the page of a combination's runs, relative to the plan's folder."""
        slug = re.sub(r"[^A-Za-z0-9]+", "-", row.name).strip("-").lower()[-32:].strip("-")
        return Path("cards") / f"{self.plan.rows.index(row) + 1:02d}-{slug}.md"

    def state(self, run: Run) -> str:
        """``done``, ``failed`` or ``not run``."""
        return "done" if run.hash in self.found else "failed" if run.hash in self.failed else "not run"

    def records(self) -> list[dict[str, Any]]:
        """Flat records, one per combination and seed, and one per refused combination.

        The column of an axis has the axis's name, or ``axis NAME`` if another column has that name.
        """
        found: list[tuple[Row, dict[str, Any]]] = []
        for row in self.plan.rows:
            if row.refused is not None:
                found.append((row, {"state": "refused", "reason": row.refused}))
            for seed, run in row.runs.items():
                result = self.found.get(run.hash, {"metrics": {}, "card": {}})
                epoch = last_epoch(run) if result["card"] else {}
                facts = {
                    "seed": seed,
                    "state": self.state(run),
                    "reason": self.failed.get(run.hash) if self.state(run) == "failed" else None,
                    **{metric: result["metrics"].get(metric) for metric in self.metrics},
                    **{name: value for name, value in result["metrics"].items() if name not in self.metrics},
                    **{f"last {name}": value for name, value in epoch.items() if (metric_of(name) or ("", True))[1]},
                    "seconds": result["card"].get("seconds"),
                    "config_hash": run.hash,
                    "card": relative(run.folder / "result.json", self.plan.home) if result["card"] else None,
                }
                found.append((row, facts))
        columns = dict.fromkeys(name for _, facts in found for name in facts)
        taken = {"combination", *columns}
        called: dict[str, str] = {}
        for axis in self.plan.rows[0].labels:
            called[axis] = axis
            while called[axis] in taken:
                called[axis] = f"axis {called[axis]}"
            taken.add(called[axis])
        return [
            {
                "combination": row.name,
                **{called[axis]: label for axis, label in row.labels.items()},
                **{name: facts.get(name) for name in columns},
            }
            for row, facts in found
        ]

    def conditions(self) -> list[str]:
        """Lines on the conditions of the finished runs: what all share, then each that differs with its combinations."""
        rows = {row.name: {seed: run for seed, run in row.runs.items() if run.hash in self.found} for row in self.plan.rows}
        found: dict[str, dict[str, str]] = {}
        for name, runs in rows.items():
            of_seeds = {seed: run_conditions(self.found[run.hash]["card"]) for seed, run in runs.items()}
            alike = len({tuple(facts.items()) for facts in of_seeds.values()}) == 1
            found |= {name if alike else f"{name}, seed {seed}": facts for seed, facts in of_seeds.items()}
        return condition_lines(found, "differs by combination")

    def other_provenance(self) -> list[str]:
        """Differences in provenance (code, data, torch) between the finished runs."""
        found: dict[str, None] = {}
        known = [c for run in self.plan.runs if run.hash in self.found and (c := _provenance_of(run))]
        for other in known[1:]:
            shared = {key: known[0][key] for key in known[0] if key in other}
            now = {key: other[key] for key in shared}
            for part in ("code", "data", "files", "precision"):  # entries used by only one of the two cannot differ
                both = shared.get(part, {}).keys() & now.get(part, {}).keys()
                shared[part], now[part] = ({key: side[part][key] for key in both} for side in (shared, now))
            for name, change in differences(shared, now, "runs").items():
                found[f"{name.removeprefix('runs.')}: {change}"] = None
        return list(found)


def run_conditions(card: Mapping[str, Any]) -> dict[str, str]:
    """Conditions of the metrics of a run, which are those of its last stage, without the seed."""
    stages = card.get("stages")
    return conditions_of(card, list(stages.values())[-1], seed=False) if isinstance(stages, dict) and stages else {}


def last_epoch(run: Run) -> dict[str, float]:
    """Report of the last epoch of a finished run: losses, clusters, metrics."""
    stages = run.config.experiment.stages
    done = run.folder / f"{len(stages)}-{stages[-1].name}" / "done.json"
    try:
        last = json.loads(done.read_text(encoding="utf-8"))["history"][-1]
        return last if isinstance(last, dict) else {}
    except (OSError, ValueError, KeyError, IndexError, TypeError):  # no epoch at all, or a damaged file
        return {}


_FORMULA = re.compile(r"'|\s*[=+\-@\u2212\uff0b\uff0d\uff1d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def as_text(value: str) -> str:
    """Escape a string as a CSV cell that no spreadsheet evaluates as a formula.

    A ``'`` is prepended if the string starts like a formula or with a ``'``; removing it restores the string.
    """
    return f"'{value}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def write_records(results: Results) -> list[Path]:
    """Write ``results.csv``, and ``results.parquet`` if pyarrow is installed; returns the files written."""
    records, home = results.records(), results.plan.home
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(as_text, records[0]))
    writer.writerows([as_text(value) if isinstance(value, str) else value for value in record.values()] for record in records)
    write_text(home / "results.csv", text.getvalue())
    if importlib.util.find_spec("pyarrow") is None:
        return [home / "results.csv"]
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(records)
    write_atomically(home / "results.parquet", lambda partial: parquet.write_table(table, partial))
    return [home / "results.csv", home / "results.parquet"]


def relative(path: Path, folder: Path) -> str:
    """Relative link to ``path`` from a page in ``folder``."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _provenance_of(run: Run) -> dict[str, Any]:
    try:
        found = json.loads((run.folder / RECORD).read_text(encoding="utf-8"))["provenance"]
        return found if all(isinstance(found.get(part, {}), dict) for part in ("code", "data", "precision")) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
