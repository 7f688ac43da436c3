"""The arguments that commands about an experiment share."""

from __future__ import annotations

import argparse

from reidx.cli.parser import whole_number

MOST = 4096
"""Threads or runs at a time: more than any machine has cores."""


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``CONFIG`` and ``--set``."""
    # the generated usage puts CONFIG last, where --set would take it for one more KEY=VALUE
    parser.usage = "%(prog)s CONFIG [--set KEY=VALUE …] [options]"
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file, or one of a package: reidx::demo.yaml, lf2::usl.yaml"
    )
    add_set_argument(parser, "change a value, e.g. labels.clusterer.eps=0.5; +KEY=VALUE adds a key that is not there")


def add_set_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """``--set``, with ``text`` as its help."""
    parser.add_argument(
        "--set", metavar="KEY=VALUE", dest="overrides", nargs="+", action="extend", default=[], help=text
    )


def add_progress_argument(parser: argparse.ArgumentParser) -> None:
    """``--progress``."""
    parser.add_argument(
        "--progress",
        choices=("rich", "plain", "json", "quiet"),
        default=None,
        help="on stderr: bars, lines for a log file, a JSON object a line for programs, or nothing "
        "(default: bars in a terminal, lines elsewhere)",
    )


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """``--threads``."""
    parser.add_argument(
        "--threads",
        type=whole_number(1, MOST),
        metavar="N",
        help="threads that compute on the CPU (default: as many as there are cores that nothing else keeps busy when the "
        "command starts, or OMP_NUM_THREADS); a resumed run keeps its own number, as another one rounds otherwise",
    )


def add_resume_anyway_argument(parser: argparse._ActionsContainer) -> None:
    """``--resume-anyway``."""
    parser.add_argument(
        "--resume-anyway",
        dest="resume",
        action="store_const",
        const="anyway",
        default=False,
        help="go on though config, data, code or number of processes are not those the run was begun with; "
        "the result's card says so",
    )
