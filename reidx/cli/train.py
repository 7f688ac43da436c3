"""Run an experiment: train, evaluate, and write weights, config, card and log to the work directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.experiment import add_config_arguments, add_progress_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--work-dir", type=Path, metavar="D", help="where the run is written")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint of the work directory"
    )
    parser.add_argument(
        "--launcher",
        choices=("auto", "none", "torchrun", "slurm"),
        default="auto",
        help="who started the processes of this job (default: torchrun if its variables are set, else none)",
    )
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    import reidx
    from reidx import processes

    config = reidx.load_config(arguments.config, arguments.overrides)
    with processes.started(arguments.launcher):
        result = reidx.run(
            config, work_dir=arguments.work_dir, resume=arguments.resume, progress=arguments.progress
        )
        if processes.rank() == 0:
            print(result.table())
    return 0
