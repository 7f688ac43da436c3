"""Show where a data set is requested, the layout of its folder, its official counts and its base config.

Without NAME, list all published data sets.
"""

from __future__ import annotations

import argparse

from reidx.cli.console import print_entries, print_heading, print_lines, print_table
from reidx.data.published import PublishedSet, base_config, find_set, published_sets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a published data set: Market1501, Market-1501")


def run(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        print_entries([(known.component, known.sentence) for known in published_sets()])
        print("\n`reidx data where NAME` shows the page, the layout and the counts of a data set.")
        return 0
    _show(find_set(arguments.name))
    return 0


def _show(known: PublishedSet) -> None:
    facts = known.facts
    print_heading(f"{known.component}: {known.sentence}")
    if facts.notice:
        print_lines([f"note: {facts.notice}"])
    print(f"request:     {facts.request or 'no page'}")
    base = base_config(known.component)
    print(f"base config: {base[0] if base else 'none'}")
    print_heading("layout, in the folder of the data set or the one above")
    print(facts.layout)
    print_heading("official counts, without junk")
    rows = [
        (*([variant] if len(facts.counts) > 1 else []), split, _number(counts.images), _number(counts.ids))
        for variant, splits in facts.counts.items()
        for split, counts in splits.items()
    ]
    if rows:
        print_table((*(["variant"] if len(facts.counts) > 1 else []), "split", "images", "identities"), rows)
    else:
        print("no source states them")


def _number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"
