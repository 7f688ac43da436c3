"""Groups of commands, such as `reidx data`: each command is a module of the group's package."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from types import ModuleType


def add_commands(parser: argparse.ArgumentParser, package: str, commands: Mapping[str, str]) -> None:
    """Add the ``commands`` of a group with their helps; each is a module of ``package`` with ``add_arguments`` and ``run``."""
    choices = parser.add_subparsers(dest="command_of_group", metavar="COMMAND", required=True, help="one of these:")
    for name, text in commands.items():
        module = _module(package, name)
        command = choices.add_parser(name, help=text, description=module.__doc__, allow_abbrev=False)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(command)


def run_command(arguments: argparse.Namespace, package: str) -> int:
    """Run the command that the ``arguments`` name; returns its exit code."""
    return int(_module(package, arguments.command_of_group).run(arguments))


def _module(package: str, name: str) -> ModuleType:
    return importlib.import_module(f"{package}.{name}")
