"""Compare runs: differences in config, code, versions and data, then the metrics by stage, with their conditions."""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from reidx.cli.console import print_heading, print_table
from reidx.cli.formats import add_format_argument, markdown_table, print_records

if TYPE_CHECKING:
    from reidx.ablation.comparison import Comparison

ABOUT = ("run", "folder", "hash", "seed", "state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run; give two or more")
    add_format_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from reidx.ablation.comparison import compare

    _PRINTERS[arguments.format](compare(arguments.runs))
    return 0


def _print_tables(found: Comparison) -> None:
    names = found.names
    print_table(ABOUT, found.about)
    for title, rows in (("config", found.config), ("code, versions, data", found.provenance)):
        print_heading(title)
        if rows:
            print_table((title.partition(",")[0], *names), rows)
        else:
            print("no difference")
    print_heading(f"metrics in percent, with the difference from {names[0]} in brackets")
    if found.metrics:
        print("\n".join(found.conditions), end="\n" if found.conditions else "")
        for stage, of_stage in groupby(found.metrics, lambda row: row[0]):
            print()
            print_table((stage, *names), [row[1:] for row in of_stage])
    else:
        print("no run has been evaluated yet")


def _print_markdown(found: Comparison) -> None:
    from reidx.runs.conditions import unfolded

    parts = [markdown_table(ABOUT, found.about)]
    for title, rows in (("Config", found.config), ("Code, versions, data", found.provenance)):
        parts += [f"## {title}", markdown_table(("key", *found.names), rows) if rows else "No difference."]
    parts += [f"## Metrics in percent, with the difference from {found.names[0]} in brackets"]
    parts += ["\n".join(f"* {line}" for line in unfolded(found.conditions))] if found.conditions else []
    table = markdown_table(("stage", "metric", *found.names), found.metrics)
    parts += [table if found.metrics else "No run has been evaluated yet."]
    print("\n\n".join(parts))


def _print_csv(found: Comparison) -> None:
    """Print one table: the part of the comparison, the place in it, and a column for each run."""
    rows: list[list[object]] = [["run", key, *values] for key, values in zip(ABOUT[1:], list(zip(*found.about))[1:])]
    rows += [["config", *row] for row in found.config]
    rows += [["provenance", *row] for row in found.provenance]
    rows += [[f"metric of {state}", metric, *values] for state, metric, values in found.values]
    print_records("csv", ("part", "key", *found.names), rows)


def _print_json(found: Comparison) -> None:
    def by_run(rows: list[tuple[str, ...]]) -> dict[str, dict[str, str]]:
        return {key: dict(zip(found.names, values)) for key, *values in rows}

    metrics: dict[str, dict[str, dict[str, float | None]]] = {}
    for state, metric, values in found.values:
        metrics.setdefault(state, {})[metric] = dict(zip(found.names, values))
    whole = {
        "runs": [dict(zip(ABOUT, row)) for row in found.about],
        "config": by_run(found.config),
        "provenance": by_run(found.provenance),
        "conditions": found.conditions,
        "metrics": metrics,
    }
    print(json.dumps(whole, indent=1, ensure_ascii=False))


_PRINTERS = {"table": _print_tables, "md": _print_markdown, "csv": _print_csv, "json": _print_json}
