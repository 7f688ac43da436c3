"""Build a searchable index of images, add to it, remove from it, or describe it."""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType

COMMANDS = {
    "build": "embed images, or read embeddings, into a new index",
    "add": "add images that the index does not have",
    "remove": "delete images from the index",
    "info": "describe an index; verify its files",
}
"""The commands below ``reidx index``. Each is a module of this package with ``add_arguments`` and ``run``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="index_command", metavar="COMMAND", required=True, help="one of these:")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=_module(name).__doc__, allow_abbrev=False)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        _module(name).add_arguments(command)


def run(arguments: argparse.Namespace) -> int:
    return int(_module(arguments.index_command).run(arguments))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
