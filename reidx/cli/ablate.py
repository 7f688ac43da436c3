"""Run a grid of experiments that differ in some parts, and compare them; run again, it goes on with what is missing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from reidx.cli.console import print_heading, print_table
from reidx.cli.experiment import MOST, add_progress_argument, add_set_argument, add_threads_argument
from reidx.cli.parser import whole_number
from reidx.errors import ReidxError

if TYPE_CHECKING:
    from reidx.ablation.plan import Plan
    from reidx.ablation.schedule import SweepState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s GRID [--set KEY=VALUE …] [options]"
    parser.add_argument("grid", metavar="GRID", help="an experiment file with a section `ablate` (docs/ablations.md)")
    add_set_argument(parser, "change a value of the base experiment (epochs=2) or of the grid (ablate.seeds=[1])")
    parser.add_argument("--work-dir", type=Path, metavar="D", help="where all of it is written (default runs/ablate-GRID)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, what is refused and why; run nothing")
    parser.add_argument(
        "--workers",
        type=whole_number(0, MOST),
        metavar="N",
        help="runs at a time (default: one a GPU, or one; with Ray as many as fit)",
    )
    parser.add_argument(
        "--executor",
        choices=("local", "ray"),
        default="local",
        help="where the runs go: processes on this machine, or the machines of a Ray cluster that share its folder",
    )
    parser.add_argument("--address", help="the Ray cluster (default: RAY_ADDRESS, or one started on this machine)")
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.workers == 0:
        raise ReidxError("--workers 0: at least one run at a time.")
    if arguments.address is not None and arguments.executor != "ray":
        raise ReidxError("--address is of a Ray cluster: add --executor ray.")
    if arguments.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # that of each run
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
    from reidx.ablation.workers import Workers, claimed
    from reidx.ablation.writing import Reporting, write_results

    with claimed(plan.home) as lock:
        try:
            if sweep.waiting:
                if arguments.executor == "ray":
                    from reidx.ablation.on_ray import OnRay

                    carry_out(sweep, OnRay(arguments.workers, arguments.address), Reporting(watcher(arguments.progress)))
                else:
                    carry_out(sweep, Workers(arguments.workers, lock), Reporting(watcher(arguments.progress)))
        finally:  # what there is by now, also after a Ctrl-C
            files = write_results(Results(plan, sweep.failed))
        print("\n".join(["", *conditions(sweep), summary(sweep)]))
        for run in plan.runs:
            if run.hash in sweep.failed:
                print(f"failed: {run.hash}: {sweep.failed[run.hash]}")
        print("\n".join(f"  {path}" for path in files))


def _show(plan: Plan, sweep: SweepState) -> None:
    """The plan: each combination with its runs, what is refused, what is trained once for several."""
    grid = plan.grid
    print_heading(f"{grid.name}: {grid.design}, {len(plan.rows)} combinations, seeds {', '.join(map(str, grid.seeds))}")
    rows = []
    for row in plan.rows:
        done = sum(run.hash in sweep.done for run in row.runs.values())
        begun = sum((run.folder / "experiment.json").is_file() for run in row.runs.values()) - done
        state = f"{done} of {len(row.runs)} done" + (f", {begun} begun" if begun > 0 else "")
        rows.append((row.name, "refused" if row.refused else state, " ".join(run.hash for run in row.runs.values())))
    print_table(("combination", "state", "runs"), rows)
    for stage, saved in plan.shared().items():
        print(f"Stage {stage} is trained once where runs share it: {saved} training{'s' * (saved != 1)} saved.")
    if grid.left_out:
        print(f"Left out, as null in the grid: {', '.join(grid.left_out)}.")
    for row in plan.refused:
        print(f"refused: {row.name}: {row.refused}")
    alike = sum(len(row.runs) for row in plan.rows) - len(plan.runs)
    if alike:
        print(f"{alike} run{'s' * (alike != 1)} of combinations that come to the same config are made once.")
