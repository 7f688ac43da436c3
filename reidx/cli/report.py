"""Write a page about one run or several: metrics, curves, labels, rankings, cameras, embeddings, clusters.

The page is one HTML file that needs no network. Finished runs are measured again, which needs their data and checkpoints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.experiment import add_progress_argument, add_threads_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run; several are shown side by side")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (default report.html)"
    )
    parser.add_argument(
        "--images", action="store_true", help="show pictures of the people (default: only identities, cameras and scores)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="use the files of the runs alone: no image is read, nothing is measured"
    )
    parser.add_argument(
        "--map", choices=("tsne", "umap"), default="tsne", help="map of the embeddings (default tsne; umap needs umap-learn)"
    )
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from reidx.html.page import write_report
    from reidx.machine.threads import choose_thread_count, threads_set_to

    with threads_set_to(choose_thread_count(arguments.threads or "auto", None, lambda text: None, True)):
        missing = write_report(
            arguments.runs, arguments.out, arguments.images, arguments.quick, arguments.map, arguments.progress
        )
    for line in missing:
        print(line)
    print(f"Report: {arguments.out}")
    return 0
