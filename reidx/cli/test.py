"""Evaluate weights on the test domain of an experiment, under its protocol."""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.experiment import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="PATH", help="the checkpoint to evaluate"
    )


def run(arguments: argparse.Namespace) -> int:
    import reidx
    from reidx.engine import experiment

    config = reidx.load_config(arguments.config, arguments.overrides)
    print(experiment.test(config, weights=arguments.weights).table())
    return 0
