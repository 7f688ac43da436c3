"""Rows of values in the form that ``--format`` selects: a table of the terminal, JSON, CSV, Markdown."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from reidx.cli.console import print_table

FORMATS = ("table", "json", "csv", "md")


def add_format_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--format``."""
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="form of the output on stdout (default table; metrics are fractions "
        "in json and csv)",
    )  # fmt: skip


def print_records(form: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows of values under headings in the form ``form`` of :data:`FORMATS`; None is an empty or missing value."""
    if form == "json":
        print(json.dumps([dict(zip(head, row)) for row in rows], indent=1, ensure_ascii=False))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(["" if value is None else value for value in row] for row in rows)
    elif form == "md":
        print(markdown_table(head, rows))
    else:
        print_table(head, [["–" if value is None else str(value) for value in row] for row in rows])


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format rows as a table in Markdown; fractions have four decimals."""
    lines = [head, ["---"] * len(head), *([_text(value) for value in row] for row in rows)]
    escaped = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) and abs(value) < 1 else str(value)
