"""List the components that experiments are made of, the core's and the plugins'."""

from __future__ import annotations

import argparse

from reidx.cli.console import print_table
from reidx.errors import ReidxError
from reidx.outline.source import arguments, summary
from reidx.registry.constructor import hidden
from reidx.registry.discovery import registry
from reidx.registry.registry import KINDS, Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", metavar="KIND", help=f"only one of: {', '.join(KINDS)}")


def run(arguments: argparse.Namespace) -> int:
    if arguments.kind is not None and arguments.kind not in KINDS:
        raise ReidxError(f"There is no kind {arguments.kind!r}. The kinds are: {', '.join(KINDS)}.")
    rows = [
        (entry.name, entry.kind, entry.distribution, _what_it_is(entry))
        for entry in registry().entries(arguments.kind)
    ]
    if rows:
        print_table(("name", "kind", "from", "what it is"), rows)
    else:
        kind = KINDS[arguments.kind]
        print(f"No {kind.name} is installed (given {kind.given}; returns {kind.returns}).")
    return 0


def _what_it_is(entry: Entry) -> str:
    """A component's line: what it is, or why it cannot be used as far as its source tells without being run."""
    names, _, place = arguments(entry.component.target)
    if fault := hidden(entry.kind, names):
        return f"CANNOT BE USED: {fault} ({place})"
    return summary(entry.component.target).replace("``", "`")
