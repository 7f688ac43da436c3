"""Embed the images of a folder or a table, or read a file of embeddings, into a new index.

An index is a folder. The kind exact compares a query with every image; ivf and hnsw compare it with some, for galleries of
more than about 100,000 images, and print their measured recall.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_index_argument(parser, "the folder of the new index")
    add_source_arguments(parser)
    parser.add_argument("--kind", default="exact", choices=("exact", "ivf", "hnsw"), help="structure (default: exact)")
    parser.add_argument(
        "--recall", type=float, default=0.95, metavar="R", help="recall that ivf and hnsw aim at, up to 1 (default: 0.95)"
    )


def add_index_argument(parser: argparse.ArgumentParser, text: str = "the folder of an index") -> None:
    """Add the positional INDEX."""
    parser.add_argument("index", type=Path, metavar="INDEX", help=text)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional SOURCE and ``--weights``."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="a folder of images, a table (CSV with path and, if known, id, camera, time), or a file of embeddings "
        "(.parquet, .npz)",
    )
    parser.add_argument(
        "--weights", metavar="RUN", help="the network: folder of a run, exported folder, or file of weights; needed for images"
    )


def run(arguments: argparse.Namespace) -> int:
    from reidx.cli.index.info import summary
    from reidx.index import Index, store
    from reidx.index.sources import read_source
    from reidx.inference.reid import ReID

    store.refuse_other_contents(arguments.index)

    def network() -> ReID:
        if arguments.weights is None:
            raise ConfigError(f"{arguments.source} has images, not embeddings: name the network with --weights RUN.")
        return ReID.load(arguments.weights)

    found = read_source(arguments.source, network, arguments.weights)
    facts = {"digest": found.digest, "model": found.model, "weights": found.weights}
    index = Index.build(arguments.index, found.features, found.rows, arguments.kind, arguments.recall, **facts)
    print(summary(index))
    return 0
