"""List the runs of a folder: state, epochs, latest metrics, time, method and data; failures with their reasons."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidx.cli.console import print_lines
from reidx.cli.formats import add_format_argument, print_records
from reidx.errors import ReidxError

if TYPE_CHECKING:
    from reidx.runs.stored import StoredRun

SHOWN = ("mAP", "rank-1")
"""Metrics of the table; the other formats have all."""
HEAD = ("run", "state", "epochs", *SHOWN, "time", "method and data")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="folder of runs (default runs)")
    add_format_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from reidx.runs.stored import folders_of_runs, stored_run

    folder: Path = arguments.folder
    if not folder.is_dir():
        raise ReidxError(f"{folder} is {'a file' if folder.exists() else 'no folder'}: name a folder of runs.")
    found = [stored_run(path) for path in folders_of_runs(folder)]
    if not found:
        raise ReidxError(f"{folder} contains no runs: neither it nor its folders `runs` have a folder with experiment.json.")
    if arguments.format == "table":
        print_records("table", HEAD, [_row(one, folder) for one in found])
        reasons = [f"{_name(one, folder)} {one.state}: {one.reason}" for one in found if one.reason]
        if reasons:
            print()
            print_lines(reasons)
    else:
        records = [_record(one, folder) for one in found]
        head = list(dict.fromkeys(key for record in records for key in record))
        print_records(arguments.format, head, [[record.get(key) for key in head] for record in records])
    return 0


def _name(one: StoredRun, folder: Path) -> str:
    return str(one.folder.relative_to(folder))


def _row(one: StoredRun, folder: Path) -> list[str]:
    from reidx.reporting.displays import duration

    done, planned = one.epochs
    metrics = [f"{100 * one.metrics[name]:.2f}" if name in one.metrics else "–" for name in SHOWN]
    time = duration(one.seconds) if one.seconds else "–"
    return [_name(one, folder), one.state, f"{done}/{planned}", *metrics, time, f"{one.method} on {one.data}"]


def _record(one: StoredRun, folder: Path) -> dict[str, Any]:
    done, planned = one.epochs
    known = {"experiment": (one.config or {}).get("name"), "seed": (one.config or {}).get("seed")}
    return {
        "run": _name(one, folder),
        **known,
        "hash": (one.record or {}).get("hash"),
        "method": one.method,
        "data": one.data,
        "state": one.state,
        "reason": one.reason or None,
        "epochs": done,
        "planned_epochs": planned,
        "seconds": round(one.seconds, 1),
        **one.metrics,
    }
