"""Run a grid of experiments that differ in some parts, and compare them. Run it again to resume or extend the grid."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

from reidx.cli.console import print_heading, print_table
from reidx.cli.experiment import MOST, add_progress_argument, add_set_argument, add_threads_argument
from reidx.cli.parser import whole_number
from reidx.errors import ReidxError

if TYPE_CHECKING:
    from reidx.ablation.executor import Executor
    from reidx.ablation.plan import Plan
    from reidx.ablation.schedule import SweepState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s GRID [--set KEY=VALUE …] [options]"
    parser.add_argument("grid", metavar="GRID", help="an experiment file with a section `ablate` (docs/ablations.md)")
    add_set_argument(parser, "change a value of the base experiment (epochs=2) or of the grid (ablate.seeds=[1])")
    parser.add_argument("--work-dir", type=Path, metavar="D", help="folder of the runs and results (default runs/ablate-GRID)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the planned runs, and refused combinations with the reasons; run nothing",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(0, MOST),
        metavar="N",
        help="simultaneous runs (default: one per GPU, or 1 without a GPU; Ray: all that fit; Slurm: 100 in the queue)",
    )
    parser.add_argument(
        "--executor",
        choices=("local", "ray", "slurm"),
        default="local",
        help="run on this machine, on a Ray cluster, or as Slurm jobs; the machines share the work directory",
    )
    parser.add_argument(
        "--address", help="address of the Ray cluster (default: RAY_ADDRESS, or a cluster started on this machine)"
    )
    parser.add_argument(
        "--slurm",
        nargs="+",
        metavar="K=V",
        help="options of the Slurm jobs, as in: partition=gpu time=240 (minutes) gpus_per_node=1 cpus_per_task=4 mem=32GB",
    )
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.workers == 0:
        raise ReidxError("--workers 0: give at least 1.")
    if arguments.address is not None and arguments.executor != "ray":
        raise ReidxError("--address names a Ray cluster: add --executor ray.")
    if arguments.slurm is not None and arguments.executor != "slurm":
        raise ReidxError("--slurm has the options of Slurm jobs: add --executor slurm.")
    arguments.slurm = _slurm_options(arguments.slurm or [])
    if arguments.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # inherited by every run
    from reidx.ablation.grid import read_grid
    from reidx.ablation.plan import plan_of
    from reidx.ablation.schedule import sweep_state_of

    grid = read_grid(arguments.grid, arguments.overrides)
    plan = plan_of(grid, arguments.work_dir or Path("runs") / f"ablate-{grid.name}")
    sweep = sweep_state_of(plan)
    _show(plan, sweep)
    if arguments.dry_run:
        return 0
    _carry_out(arguments, plan, sweep)
    return 1 if sweep.failed else 0


def _carry_out(arguments: argparse.Namespace, plan: Plan, sweep: SweepState) -> None:
    from reidx.ablation.results import Results
    from reidx.ablation.schedule import carry_out
    from reidx.ablation.screen import conditions, summary, watcher
    from reidx.ablation.workers import claimed
    from reidx.ablation.writing import Reporting, write_results

    with claimed(plan.home) as lock:
        try:
            if sweep.waiting:
                carry_out(sweep, _executor(arguments, plan.home, lock), Reporting(watcher(arguments.progress)))
        finally:  # also after Ctrl-C: the results so far
            files = write_results(Results(plan, sweep.failed))
        print("\n".join(["", *conditions(sweep), summary(sweep)]))
        for run in plan.runs:
            if run.hash in sweep.failed:
                print(f"failed: {run.hash}: {sweep.failed[run.hash]}")
        print("\n".join(f"  {path}" for path in files))


def _executor(arguments: argparse.Namespace, home: Path, lock: IO[str]) -> Executor:
    if arguments.executor == "ray":
        from reidx.ablation.on_ray import OnRay

        return OnRay(arguments.workers, arguments.address)
    if arguments.executor == "slurm":
        from reidx.ablation.on_slurm import OnSlurm

        return OnSlurm(arguments.workers, home, arguments.slurm)
    from reidx.ablation.workers import Workers

    return Workers(arguments.workers, lock)


def _slurm_options(words: list[str]) -> dict[str, str | int]:
    """Options of Slurm jobs from words such as ``time=240``."""
    options: dict[str, str | int] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ReidxError(f"--slurm {word}: give KEY=VALUE, for example partition=gpu.")
        options[name.replace("-", "_")] = int(value) if value.isdecimal() else value
    return options


def _show(plan: Plan, sweep: SweepState) -> None:
    """Print the plan: combinations with their runs, refused combinations with the reasons, shared stages."""
    grid = plan.grid
    print_heading(f"{grid.name}: {grid.design}, {len(plan.rows)} combinations, seeds {', '.join(map(str, grid.seeds))}")
    rows = []
    for row in plan.rows:
        done = sum(run.hash in sweep.done for run in row.runs.values())
        begun = sum((run.folder / "experiment.json").is_file() for run in row.runs.values()) - done
        state = f"{done} of {len(row.runs)} done" + (f", {begun} started" if begun > 0 else "")
        rows.append((row.name, "refused" if row.refused else state, " ".join(run.hash for run in row.runs.values())))
    print_table(("combination", "state", "runs"), rows)
    for stage, saved in plan.shared().items():
        print(f"Stage {stage} is trained once for all runs that share it, which saves {saved} training{'s' * (saved != 1)}.")
    if grid.left_out:
        print(f"Omitted, because the grid sets them to null: {', '.join(grid.left_out)}.")
    for row in plan.refused:
        print(f"refused: {row.name}: {row.refused}")
    alike = sum(len(row.runs) for row in plan.rows) - len(plan.runs)
    if alike:
        print(f"{alike} run{'s' * (alike != 1)} with the config of another run: not repeated.")
