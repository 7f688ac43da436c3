"""Search an index for the images most similar to query images.

The similarity is the cosine of two embeddings: 1 for the same image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.console import print_heading, print_table
from reidx.cli.index.build import add_index_argument
from reidx.cli.parser import whole_number
from reidx.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_index_argument(parser)
    parser.add_argument("queries", nargs="+", metavar="QUERY", help="query images, or folders of them")
    parser.add_argument("--weights", metavar="RUN", help="the network (default: the one that the index was built with)")
    parser.add_argument("-k", type=whole_number(1, 1_000_000), metavar="K", help="results a query (default: 10)")
    parser.add_argument("--camera", type=int, nargs="+", default=[], metavar="N", help="only images of these cameras")
    parser.add_argument("--after", metavar="TIME", help="only images of this time or later: a number, or 2026-05-01T10:30")
    parser.add_argument("--before", metavar="TIME", help="only images earlier than this time")
    parser.add_argument(
        "--rerank",
        type=whole_number(0, 10_000),
        default=0,
        metavar="N",
        help="re-order the first N results by k-reciprocal neighbours among them",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results: .csv or .json")


def run(arguments: argparse.Namespace) -> int:
    from reidx.index import Index
    from reidx.index.filters import filter_of
    from reidx.index.results import columns_of, common_folder, ranked_results, write_results
    from reidx.index.sources import network_of

    if arguments.out is not None and arguments.out.suffix not in (".csv", ".json"):
        raise ConfigError(f"--out {arguments.out}: the name must end in .csv or .json.")
    index = Index.open(arguments.index)
    where = filter_of(index.rows, arguments.camera, arguments.after, arguments.before)
    where.allowed(index.rows)  # a filter that nothing passes is refused before the network is loaded
    network = network_of(index, arguments.weights)
    written = []
    for query in arguments.queries:
        for names, features in network.stream(query):
            found = index.search(features, arguments.k or min(10, len(index)), where, arguments.rerank)
            for number, name in enumerate(names):
                results = ranked_results(index, found, number, name)
                written += results
                folder = common_folder(results)
                print_heading(f"{name}: images in {folder}")
                print_table(*columns_of(results, folder))
    if arguments.out is not None:
        write_results(arguments.out, written)
    return 0
