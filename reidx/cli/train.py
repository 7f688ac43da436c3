"""Run an experiment: train, evaluate, and write weights, config, card and log to the work directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.experiment import (
    add_config_arguments,
    add_progress_argument,
    add_resume_anyway_argument,
    add_threads_argument,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--work-dir", type=Path, metavar="D", help="where the run is written")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint of the work directory"
    )
    add_resume_anyway_argument(how)
    how.add_argument(
        "--profile",
        action="store_true",
        help="instead of training, say where the time goes: the first epoch of each stage with a few of its steps, "
        "as a table, and a trace of steps (in the work directory's folder profile)",
    )
    parser.add_argument(
        "--share",
        type=Path,
        metavar="D",
        help="a folder in which runs leave each other what they have in common: stages that another run has trained alike, "
        "and the features that networks begin with, are taken from there",
    )
    parser.add_argument(
        "--launcher",
        choices=("auto", "none", "torchrun", "slurm"),
        default="auto",
        help="who started the processes of this job (default: torchrun if its variables are set, else none)",
    )
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    import reidx
    from reidx.machine import launchers

    with launchers.started(arguments.launcher):
        config = reidx.load_config(arguments.config, arguments.overrides)
        if arguments.profile:
            from reidx.engine.profile import profile

            shown = profile(config, arguments.work_dir, arguments.progress)
        else:
            result = reidx.run(
                config,
                work_dir=arguments.work_dir,
                resume=arguments.resume,
                progress=arguments.progress,
                share=arguments.share,
                threads=arguments.threads or "auto",
            )
            shown = f"{result.table()}\n\nConfig, checkpoints, log, card: {result.work_dir}"
        from reidx import distributed

        if distributed.rank() == 0:
            print(shown)
    return 0
