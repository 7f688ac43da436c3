"""Evaluate weights on the test domain of an experiment, under its protocol."""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.experiment import add_config_arguments, add_progress_argument, add_threads_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="a checkpoint (default: the initial weights of the last stage)"
    )
    parser.add_argument(
        "--rerank",
        action="store_true",
        help="also report re-ranked metrics, with the config's evaluate.rerank or the paper's k1=20, k2=6, lambda=0.3 "
        "(to change them: --set evaluate.rerank.k1=30)",
    )
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    import reidx

    config = reidx.load_config(arguments.config, arguments.overrides)
    from reidx.engine import experiment  # imports torch, so after the config is checked

    result = experiment.test(
        config,
        weights=arguments.weights,
        progress=arguments.progress,
        threads=arguments.threads or "auto",
        rerank=arguments.rerank,
    )
    print(result.table())
    return 0
