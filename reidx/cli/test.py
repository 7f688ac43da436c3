"""Evaluate weights on the test domain of an experiment, under its protocol."""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.experiment import add_config_arguments, add_progress_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="a checkpoint (default: what the last stage starts from)"
    )
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    import reidx
    from reidx.engine import experiment

    config = reidx.load_config(arguments.config, arguments.overrides)
    result = experiment.test(config, weights=arguments.weights, progress=arguments.progress)
    print(result.table())
    return 0
