"""First pass over training images: decoded and resized, or mapped from a pack (``reidx data pack``), in images per second.

    python -m benchmarks.packed data/Market-1501-v15.09.15

Each round reads the same images in the same random order through two new image stores, in batches, on one thread: one decodes
the files, the other maps the pack. Files and pack are in the memory of the operating system. The ratio is the median of the
rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from reidx.data.images import ImageStore
from reidx.data.packs import Pack, write_pack
from reidx.doctor.sources import data_sets_of
from reidx.testing.colours import draw_domains

BATCH = 64


def main() -> None:
    """Print the medians of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", help="folder of a data set or a config (default: drawn images)")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.size[0], arguments.size[1]
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or str(draw_domains(Path(folder) / "drawn") / "source")
        data = next(iter(data_sets_of(source, None, []).values()))
        chosen = np.unique(np.linspace(0, len(data.train) - 1, arguments.images).astype(int))
        data.train = data.train.select(np.isin(np.arange(len(data.train)), chosen))
        data.query = data.gallery = data.train.select(np.zeros(len(data.train), bool))
        packed = Pack.read(write_pack(data, Path(folder) / "packs", "packed", size, "bicubic")).images("train")
        rows = []
        for number in range(arguments.rounds):
            order = np.random.default_rng(number).permutation(len(data.train))
            paths = data.train.paths
            rows.append([_speed(ImageStore(paths, size, packed=images), order) for images in (None, packed)])
    decoded, mapped = (statistics.median(column) for column in zip(*rows))
    ratios = [fast / slow for slow, fast in rows]
    print(f"reidx, {len(data.train):,} images of {size[0]}x{size[1]}, {arguments.rounds} rounds")
    print(f"decoded {decoded:,.0f} images/s, packed {mapped:,.0f} images/s")
    print(f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


def _speed(store: ImageStore, order: np.ndarray) -> float:
    start = time.perf_counter()
    for place in range(0, len(order), BATCH):
        store.batch(order[place : place + BATCH].tolist())
    return len(order) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
