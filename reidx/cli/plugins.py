"""List the installed plugins with their components, and why one is not in use."""

from __future__ import annotations

import argparse

from reidx.cli.console import print_table
from reidx.registry.discovery import CORE, check, plugins
from reidx.registry.plugin import Plugin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check",
        action="store_true",
        help="load everything that the plugins declare; exit with 1 if something fails",
    )


def run(arguments: argparse.Namespace) -> int:
    found = plugins()
    print_table(("plugin", "from", "description"), [_row(plugin) for plugin in found])
    if not arguments.check:
        return 0
    faults = [f"{plugin.namespace or CORE}: {fault}" for plugin in found for fault in check(plugin)]
    print("\n" + ("\n".join(faults) if faults else "Everything loads."))
    return 1 if faults else 0


def _row(plugin: Plugin) -> tuple[str, str, str]:
    if plugin.problem:
        text = f"NOT IN USE: {plugin.problem}"
    else:
        title = plugin.info.title if plugin.info else ""
        text = f"{title} ({_count(len(plugin.entries), 'component')})"
    return plugin.namespace or CORE, plugin.origin, text


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
