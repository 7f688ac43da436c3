"""Examine a data set: recognise it, compare its counts with the published ones, and find faults of files and labels.

Decodes every image that the loader reads. The report lists errors first (a run would fail, its result would be wrong, or this
is not the published data set), then warnings, then facts. Exit code: 1 if there is an error, else 0.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from reidx.cli.console import READABLE, columns, print_heading, print_lines
from reidx.cli.data.progress import progress_bar
from reidx.errors import ConfigError

if TYPE_CHECKING:
    from reidx.doctor.findings import Report

SHOWN = 3
"""Number of files printed for each finding."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of a data set, the folder above it, or a table (CSV)")
    parser.add_argument(
        "--as",
        dest="name",
        metavar="NAME",
        help="read it as this data set, without recognition: RegDB, or with arguments '{type: RegDB, trial: 2}'",
    )
    parser.add_argument("--quick", action="store_true", help="decode no image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings, with all files, into a JSON file")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="move unreadable and refused files aside, into PATH.set_aside, and rename suffixes; deletes nothing",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the steps of --fix without taking them")


def run(arguments: argparse.Namespace) -> int:
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        raise ConfigError(f"--json {arguments.json}: there is no folder {arguments.json.parent}.")
    from reidx.doctor.examination import examine
    from reidx.doctor.repair import carry_out, plan
    from reidx.runs.checkpoint import write_text

    def examined() -> Report:
        with progress_bar("examining images") as progress:
            return examine(arguments.path, arguments.name, arguments.quick, progress)

    report = examined()
    _print_report(report, listed=bool(arguments.json))
    if arguments.fix or arguments.dry_run:
        steps = plan(report)
        print_heading("steps of --fix" if arguments.dry_run else "repair")
        done = [step for step in steps if not step.refusal] if arguments.dry_run else list(carry_out(steps, report.path))
        for step in done:
            _print_place(_relative(f"{step.source} -> {step.target}", report.path))
        for step in steps:
            if step.refusal:
                _print_place(_relative(f"{step.source} stays: {step.refusal}", report.path))
        if not steps:
            print("nothing to move or rename")
        elif done and not arguments.dry_run:
            print_heading("after the repair")
            report = examined()
            _print_report(report, listed=bool(arguments.json))
    if arguments.json:
        write_text(arguments.json, json.dumps(report.as_json(), indent=1, default=str) + "\n")
    return 1 if report.of("error") else 0


def _print_report(report: Report, listed: bool) -> None:
    """Print a report; ``listed``: a file has the places that are left out."""
    from reidx.doctor.findings import SEVERITIES

    print(f"{report.component} at {report.path}: {report.files:,} images examined in {report.seconds:,.0f} s")
    for severity, heading in SEVERITIES.items():
        if found := report.of(severity):
            print_heading(heading)
        for finding in found:
            print_lines([f"* {finding.message}"])
            for place in finding.places[:SHOWN]:
                _print_place(_relative(f"{place.path}{f': {place.note}' if place.note else ''}", report.path))
            if (more := len(finding.places) - SHOWN) > 0:
                print(f"    … and {more:,} more{'' if listed else ' (--json FILE lists them)'}")


def _relative(text: str, root: str) -> str:
    """Return a text in which paths below ``root`` are relative to it."""
    return text.replace(root + os.sep, "")


def _print_place(text: str) -> None:
    """Print a file and its note, indented; a path is not broken."""
    lines = textwrap.TextWrapper(
        columns(READABLE), initial_indent=" " * 4, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False
    )
    print(lines.fill(text))
