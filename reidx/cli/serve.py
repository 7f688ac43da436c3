"""Serve a page on an index: pick or upload a query, look at the ranked images.

By default the page is for this machine alone. It shows the images of the index; uploads stay in memory. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse

from reidx.cli.index.build import add_index_argument
from reidx.cli.parser import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_index_argument(parser)
    parser.add_argument("--weights", metavar="RUN", help="the network (default: the one that the index was built with)")
    parser.add_argument("--port", type=whole_number(0, 65535), default=8000, metavar="N", help="default: 8000; 0: any free one")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (default: 127.0.0.1, this machine alone)"
    )


def run(arguments: argparse.Namespace) -> int:
    from reidx.index import Index
    from reidx.index.sources import network_of
    from reidx.serve import Gallery, PageServer

    index = Index.open(arguments.index)
    with PageServer(Gallery(index, network_of(index, arguments.weights)), arguments.host, arguments.port) as server:
        if not server.on_loopback:
            print(f"note: whoever reaches {arguments.host} sees the images of the index, without a password")
        print(f"{len(index):,} images at {server.address} (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
