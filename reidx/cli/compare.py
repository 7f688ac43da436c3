"""Compare runs: differences in config, code, versions and data, then the metrics by stage, with their conditions."""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

from reidx.cli.console import print_heading, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run; give two or more")


def run(arguments: argparse.Namespace) -> int:
    from reidx.ablation.comparison import compare

    found = compare(arguments.runs)
    names = found.names
    print_table(("run", "folder", "hash", "seed", "state"), found.about)
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
    return 0
