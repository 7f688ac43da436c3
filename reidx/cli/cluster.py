"""Group your own images by person, without identities: a table of clusters, embeddings, contact sheets.

The network needs weights that were trained on people. With --adapt it is first trained on the images, without labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.experiment import add_progress_argument, add_threads_argument, add_weights_argument
from reidx.errors import ConfigError

NO_WEIGHTS = (
    "reidx cluster needs --weights of a network that was trained on people: the folder of a run (`reidx recipes` lists those "
    "to train), or a file such as osnet_x0_25_msmt17.pth from torchreid's model zoo; nothing is downloaded."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s FOLDER --weights RUN|FILE [--adapt MINUTES] [options]"
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of the images, which may have sub-folders")
    add_weights_argument(parser)
    parser.add_argument(
        "--adapt", type=_minutes, metavar="MINUTES", help="first train on the images without labels, for about so long"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to write (default: NAME-clusters, from FOLDER)")
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.weights is None:
        raise ConfigError(NO_WEIGHTS)
    out = arguments.out or Path(f"{arguments.folder.resolve().name}-clusters")
    if out.resolve().is_relative_to(arguments.folder.resolve()):
        raise ConfigError(f"{out} lies in the folder of the images, so its contact sheets would count as images. Set --out.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already. Give another folder with --out, or move it away.")
    from reidx.inference.grouping import group_images
    from reidx.machine.threads import choose_thread_count, threads_set_to
    from reidx.reporting.reporter import Reporter

    reporter = Reporter(arguments.progress)
    with threads_set_to(choose_thread_count(arguments.threads or "auto", None, reporter.message, True)):
        lines = group_images(arguments.folder, arguments.weights, out, arguments.adapt, arguments.progress)
    print("\n".join(lines))
    return 0


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes, such as 10")
    return minutes
