"""Write the embeddings of all images of a folder, a table or a data set to one file, for search or for other programs.

The file, Parquet or npz, has the columns path, id, camera and embedding (unit length). It appears when it is whole: after an
interruption the earlier file, if any, is still there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.experiment import add_progress_argument, add_threads_argument, add_weights_argument

SPLITS = ("train", "query", "gallery")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s FOLDER|CSV|DATA SET --weights RUN|FILE --out FILE [options]"
    parser.add_argument("source", metavar="SOURCE", help="a folder of images, a table (CSV, Parquet), a data set, or a config")
    add_weights_argument(parser, required=True)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the file to write: .parquet or .npz")
    parser.add_argument("--as", dest="name", metavar="NAME", help="read the source as this data set, as in reidx data doctor")
    parser.add_argument("--split", choices=SPLITS, help="only this split of a data set (default: all of them)")
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from reidx.inference.extraction import extract_to_file, images_of
    from reidx.inference.reid import ReID
    from reidx.machine.threads import choose_thread_count, threads_set_to
    from reidx.reporting.reporter import Reporter

    reporter = Reporter(arguments.progress)
    images = images_of(arguments.source, arguments.name, arguments.split)
    model = ReID.load(arguments.weights)
    with threads_set_to(choose_thread_count(arguments.threads or "auto", None, reporter.message, True)):
        extract_to_file(model, images, arguments.out, reporter)
    print(f"{arguments.out}: {len(images):,} embeddings of {model.dim} numbers, by {model.name} ({model.digest[:12]})")
    return 0
