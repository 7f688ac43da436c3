"""Arguments shared by the commands about experiments."""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.parser import whole_number

MOST = 4096
"""Upper limit for threads and simultaneous runs; no machine has more cores."""


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``CONFIG`` and ``--set``."""
    # the generated usage puts CONFIG last, where --set would read it as another KEY=VALUE
    parser.usage = "%(prog)s CONFIG [--set KEY=VALUE …] [options]"
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file, or a config of a package: reidx::demo.yaml, lf2::usl.yaml"
    )
    add_set_argument(parser, "change a value, e.g. labels.clusterer.eps=0.5; +KEY=VALUE adds a key that the config lacks")


def add_set_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--set``, with ``text`` as its help."""
    parser.add_argument(
        "--set", metavar="KEY=VALUE", dest="overrides", nargs="+", action="extend", default=[], help=text
    )


def add_progress_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--progress``."""
    parser.add_argument(
        "--progress",
        choices=("rich", "plain", "json", "quiet"),
        default=None,
        help="progress on stderr: bars, lines for a log file, JSON lines for programs, or nothing "
        "(default: bars in a terminal, lines elsewhere)",
    )


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``."""
    parser.add_argument(
        "--threads",
        type=whole_number(1, MOST),
        metavar="N",
        help="CPU threads (default: OMP_NUM_THREADS, or the number of cores idle at the start); a resumed run keeps its "
        "number, because another number changes the rounding",
    )


def add_weights_argument(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add ``--weights``, the source of a trained network."""
    parser.add_argument(
        "--weights",
        required=required,
        type=Path,
        metavar="PATH",
        help="the network: the folder of a run, one of its checkpoints, or a file of weights",
    )


def add_resume_anyway_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--resume-anyway``."""
    parser.add_argument(
        "--resume-anyway",
        dest="resume",
        action="store_const",
        const="anyway",
        default=False,
        help="resume even if config, data, code or number of processes have changed; the result's card records the changes",
    )
