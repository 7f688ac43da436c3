"""Build a searchable index of images, add to it, remove from it, or describe it."""

from __future__ import annotations

import argparse

from reidx.cli.groups import add_commands, run_command

COMMANDS = {
    "build": "embed images, or read embeddings, into a new index",
    "add": "add images that the index does not have",
    "remove": "delete images from the index",
    "info": "describe an index; verify its files",
}
"""The commands below ``reidx index``. Each is a module of this package with ``add_arguments`` and ``run``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, __name__, COMMANDS)


def run(arguments: argparse.Namespace) -> int:
    return run_command(arguments, __name__)
