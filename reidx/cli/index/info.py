"""Describe an index: images, cameras, times, network, size, measured recall."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from reidx.cli.console import print_entries
from reidx.cli.index.build import add_index_argument

if TYPE_CHECKING:
    from reidx.index import Index

_LISTED = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_index_argument(parser)
    parser.add_argument("--verify", action="store_true", help="compare the checksums of all files")


def run(arguments: argparse.Namespace) -> int:
    from reidx.index import Index

    index = Index.open(arguments.index, whole=arguments.verify)
    print(summary(index))
    print_entries(_facts(index))
    if arguments.verify:
        print("all files have their checksums")
    return 0


def summary(index: Index) -> str:
    """Return one line: the images, the kind and its recall, and the size."""
    recall = index.recall
    measured = f", recall@{recall.at} {recall.value:.3f} (measured on {recall.queries} images)" if recall.queries else ""
    return f"{index.folder}: {len(index):,} images, {index.kind}{measured}, {index.bytes_on_disk / 1e6:,.1f} MB"


def _facts(index: Index) -> list[tuple[str, str]]:
    import numpy as np

    from reidx.index.times import show_time

    rows = index.rows
    facts = [("network", f"{index.model or 'unknown'} {index.digest[:12]}".strip()), ("weights", index.weights or "not known")]
    facts.append(("embedding", f"{index.dim} numbers"))
    if index.recall.effort:
        facts.append(("effort", f"{index.recall.effort} {'cells' if index.kind == 'ivf' else 'candidates'} a search"))
    if rows.cameras is not None:
        numbers, counts = np.unique(rows.cameras, return_counts=True)
        shown = [f"{number}: {count:,}" for number, count in zip(numbers.tolist(), counts.tolist(), strict=True) if number >= 0]
        more = f", and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
        facts.append(("cameras", ", ".join(shown[:_LISTED]) + more or "none known"))
    if rows.ids is not None:
        facts.append(("identities", f"{len(np.unique(rows.ids)):,}"))
    if rows.times is not None and not np.isnan(rows.times).all():
        first, last = np.nanmin(rows.times), np.nanmax(rows.times)
        facts.append(("times", f"{show_time(first, rows.time_form)} to {show_time(last, rows.time_form)}"))
    return facts
