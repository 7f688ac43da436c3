"""Find, check, show or pack a data set."""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType

COMMANDS = {
    "where": "show where a data set is requested, and the layout of its folder",
    "doctor": "examine a data set: counts, faults of files and labels, repair",
    "show": "draw pictures of a data set: images, cameras, sizes",
    "pack": "decode and resize all images once, for runs that share a folder",
}
"""The commands below ``reidx data``. Each is a module of this package with ``add_arguments`` and ``run``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True, help="one of these:")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=_module(name).__doc__, allow_abbrev=False)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        _module(name).add_arguments(command)


def run(arguments: argparse.Namespace) -> int:
    return int(_module(arguments.data_command).run(arguments))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
