"""List the components of the core and of the plugins, each with one sentence."""

from __future__ import annotations

import argparse

from reidx.cli.console import print_entries, print_heading, print_paragraphs
from reidx.errors import ReidxError, suggest
from reidx.outline.source import arguments, summary
from reidx.registry.constructor import unreachable_argument
from reidx.registry.discovery import registry
from reidx.registry.library import library
from reidx.registry.registry import KINDS, Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", metavar="KIND", help=f"list only this kind: {', '.join(KINDS)}")


def run(arguments: argparse.Namespace) -> int:
    if arguments.kind is not None and arguments.kind not in KINDS:
        hint = suggest(arguments.kind, KINDS) or f"The kinds are: {', '.join(KINDS)}."
        raise ReidxError(f"There is no kind {arguments.kind!r}. {hint}")
    found = {kind: list(registry().entries(kind)) for kind in KINDS if arguments.kind in (None, kind)}
    found = {kind: entries for kind, entries in found.items() if entries or library(kind)}
    for kind, entries in found.items():
        print_heading(kind)
        print_entries([(entry.name, _sentence(entry)) for entry in entries])
        if library(kind):
            print_paragraphs(", ".join(library(kind)))
    if found:
        print("\n`reidx show NAME` describes a component.")
    else:
        empty = KINDS[arguments.kind]
        print(f"No {empty.name} is installed (takes {empty.given}; returns {empty.returns}).")
    return 0


def _sentence(entry: Entry) -> str:
    """Return the first line of a component's docstring, or the reason if its source shows that it cannot be used."""
    names, _, place = arguments(entry.component.target)
    if fault := unreachable_argument(entry.kind, names):
        return f"CANNOT BE USED: {fault} ({place})"
    return summary(entry.component.target).replace("``", "`")
