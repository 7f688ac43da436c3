"""Arguments of the commands that read a data set from a path or a config."""

from __future__ import annotations

import argparse

from reidx.cli.experiment import add_set_argument


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the path or config, ``--as`` and ``--set``."""
    parser.usage = "%(prog)s PATH|CONFIG --out DIR [options]"
    parser.add_argument("config", metavar="PATH|CONFIG", help="folder of a data set, a table (CSV), or a config")
    parser.add_argument("--as", dest="name", metavar="NAME", help="read the path as this data set, as in reidx data doctor")
    add_set_argument(parser, "change a value of the config")
