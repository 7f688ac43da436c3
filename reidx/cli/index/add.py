"""Add the images of a folder, a table or a file of embeddings to an index; those that it has are left out."""

from __future__ import annotations

import argparse

from reidx.cli.index.build import add_index_argument, add_source_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_index_argument(parser)
    add_source_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from reidx.cli.index.info import summary
    from reidx.index import Index
    from reidx.index.sources import network_of, read_source

    index = Index.open(arguments.index)
    known = frozenset(index.rows.paths)
    found = read_source(arguments.source, lambda: network_of(index, arguments.weights), arguments.weights, known)
    if len(found.rows):
        index = index.add(found.features, found.rows, found.digest, found.model or str(arguments.source))
    print(f"{len(found.rows):,} images added; images that the index had were left out")
    print(summary(index))
    return 0
