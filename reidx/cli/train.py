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
    parser.add_argument("--work-dir", type=Path, metavar="D", help="folder of the run (default runs/NAME-HASH)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", action="store_true", help="resume from the last checkpoint in the work directory"
    )
    add_resume_anyway_argument(how)
    how.add_argument(
        "--profile",
        action="store_true",
        help="instead of training, measure where the time goes: a few steps of the first epoch of each stage, as a table "
        "and a trace (in the folder profile of the work directory)",
    )
    parser.add_argument(
        "--share",
        type=Path,
        metavar="D",
        help="a cache folder for several runs: a stage that another run has trained identically, and the features of "
        "initial networks, are reused from it, and images packed into it (reidx data pack) are not decoded again",
    )
    parser.add_argument(
        "--launcher",
        choices=("auto", "none", "torchrun", "slurm"),
        default="auto",
        help="launcher of this job's processes (default: torchrun if its variables are set, else none)",
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="draw ranked lists with pictures of the people into each tested stage's folder (ranked.png)",
    )
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    import reidx
    from reidx.machine import launchers

    with launchers.job_membership(arguments.launcher):
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
                images=arguments.images,
            )
            shown = f"{result.table()}\n\nConfig, checkpoints, log, card: {result.work_dir}"
            if result.labels_file is not None:
                shown += f"\nCluster of each training image: {result.labels_file}"
        from reidx import distributed

        if distributed.rank() == 0:
            print(shown)
    return 0
