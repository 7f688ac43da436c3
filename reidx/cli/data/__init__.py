"""Find, check, show or pack a data set."""

from __future__ import annotations

import argparse

from reidx.cli.groups import add_commands, run_command

COMMANDS = {
    "where": "show where a data set is requested, and the layout of its folder",
    "doctor": "examine a data set: counts, faults of files and labels, repair",
    "show": "draw pictures of a data set: images, cameras, sizes",
    "pack": "decode and resize all images once, for runs that share a folder",
}
"""The commands below ``reidx data``. Each is a module of this package with ``add_arguments`` and ``run``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, __name__, COMMANDS)


def run(arguments: argparse.Namespace) -> int:
    return run_command(arguments, __name__)
