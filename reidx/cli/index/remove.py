"""Delete images from an index. Their embeddings and names are gone from its files; the image files stay."""

from __future__ import annotations

import argparse

from reidx.cli.index.build import add_index_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_index_argument(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="paths of images, or of folders with all images below them")


def run(arguments: argparse.Namespace) -> int:
    import os

    from reidx.cli.index.info import summary
    from reidx.errors import DataError
    from reidx.index import Index
    from reidx.index.tables import absolute

    index = Index.open(arguments.index)
    chosen: set[str] = set()
    for image in map(absolute, arguments.images):
        found = {path for path in index.rows.paths if path == image or path.startswith(image + os.sep)}
        if not found:
            raise DataError(f"{arguments.index} has no image {image}.")
        chosen |= found
    index = index.remove(chosen)
    print(f"{len(chosen):,} images removed")
    print(summary(index))
    return 0
