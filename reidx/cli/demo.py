"""Run the demo: render two synthetic domains, train on one, adapt to the other without labels, evaluate."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from reidx.cli.experiment import add_progress_argument, add_resume_anyway_argument, add_threads_argument
from reidx.cli.parser import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    seeds = whole_number(0, 2**32 - 1)
    parser.add_argument("--seed", type=seeds, default=1, metavar="N", help="seed of the training (default 1)")
    parser.add_argument("--work-dir", type=Path, default=None, help="folder of the run (default runs/demo-SEED)")
    add_resume_anyway_argument(parser)
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    import reidx
    from reidx.evaluation.colour_control import colour_control

    config = reidx.load_config("reidx::demo.yaml", [f"seed={arguments.seed}"])
    folder = arguments.work_dir or Path("runs") / f"demo-{arguments.seed}"
    resume = arguments.resume or (folder / "experiment.json").is_file()
    result = reidx.run(
        config,
        work_dir=folder,
        resume=resume,
        progress=arguments.progress,
        threads=arguments.threads or "auto",
        images=True,  # the people are rendered
    )
    control = colour_control(config.data["data"], "target")
    (folder / "control.json").write_text(json.dumps(control, indent=1), encoding="utf-8")
    print(f"\nAdaptation to an unlabelled domain, seed {arguments.seed} (percent):\n")
    print(result.table())
    print(f"\nControl: a colour histogram of the target's images reaches mAP {100 * control['mAP']:.2f}.")
    print(f"Ranked lists: {result.ranked_list}")
    print(f"Config, checkpoints, log, card: {result.work_dir}")
    return 0
