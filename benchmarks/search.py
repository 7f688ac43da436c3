"""Search in an index on disk: build time, size, queries per second and recall@10 of each kind, one query at a time.

python -m benchmarks.search --rows 1000000 --width 512

Rows are unit vectors of people: centres in a space of 64 dimensions, each with 50 rows around it, turned into ``width``
dimensions by an orthonormal matrix, with a little noise in all of them. Queries are further rows of the same people. Recall
is the share of the true 10 nearest rows. Times are seconds of the processor on one thread, so that other work on the machine
counts as little as possible. Rows are written to a file and mapped, so that memory holds one copy, that of the index.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.measured import machine
from reidx.index import Index, Rows, structures

AT = 10
INNER = 64
EACH = 50
_BLOCK = 1 << 16


def people(rows: int, width: int, queries: int, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (N,D), mapped from ``file``, and queries (Q,D), all float32 of length 1."""
    random, inner_width = np.random.default_rng(0), min(INNER, width)
    centres = _unit(random.standard_normal((max(1, rows // EACH), inner_width), np.float32))
    turn = np.linalg.qr(random.standard_normal((width, inner_width)))[0].T.astype(np.float32)

    def drawn(count: int) -> np.ndarray:
        inner = centres[random.integers(len(centres), size=count)]
        inner = _unit(inner + 0.7 * _unit(random.standard_normal(inner.shape, np.float32)))
        return _unit(inner @ turn + 0.3 * _unit(random.standard_normal((count, width), np.float32)))

    gallery = np.lib.format.open_memmap(file, "w+", np.float32, (rows, width))
    for start in range(0, rows, _BLOCK):
        gallery[start : start + _BLOCK] = drawn(min(_BLOCK, rows - start))
    return gallery, drawn(queries)


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def queries_per_second(index: Index, queries: np.ndarray) -> tuple[float, np.ndarray]:
    """Return queries per second of processor time, one query at a time, and the rows found (Q,10)."""
    index.search(queries[:10], AT)  # maps the files and starts the libraries
    start = time.process_time()
    found = np.concatenate([index.search(query[None], AT).rows for query in queries])
    return len(queries) / (time.process_time() - start), found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--queries", type=int, default=200)
    options.add_argument("--kinds", nargs="+", default=structures.KINDS, choices=structures.KINDS)
    options.add_argument("--recall", type=float, default=0.95)
    options.add_argument("--folder", type=Path, help="for rows and indexes (default: a temporary folder)")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        gallery, queries = people(chosen.rows, chosen.width, chosen.queries, Path(folder) / "rows.npy")
        print(f"{machine()}; {chosen.rows:,} rows x {chosen.width}, {chosen.queries} queries", flush=True)
        true = np.concatenate([_exact(gallery, part) for part in np.array_split(queries, max(1, len(queries) // 200))])
        print(f"{'reidx index':12}{'build s':>10}{'MB':>9}{'effort':>9}{'queries/s':>11}{'recall@10':>11}")
        for kind in chosen.kinds:
            start = time.process_time()
            paths = [f"{number}.jpg" for number in range(len(gallery))]
            index = Index.build(Path(folder) / kind, gallery, Rows(paths), kind, chosen.recall)
            seconds = time.process_time() - start
            speed, found = queries_per_second(index, queries)
            recall = (found[:, :, None] == true[:, None, :]).any(axis=2).mean()
            effort, size = index.recall.effort, index.bytes_on_disk / 1e6
            print(f"{kind:12}{seconds:10.1f}{size:9.0f}{effort:9}{speed:11.1f}{recall:11.4f}", flush=True)


def _exact(gallery: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the true nearest rows (Q,10), from blocks of products."""
    best = np.full((len(queries), AT), -np.inf, np.float32), np.zeros((len(queries), AT), np.int64)
    for start in range(0, len(gallery), _BLOCK):
        block = gallery[start : start + _BLOCK]
        scores = np.concatenate([best[0], queries @ block.T], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
        rows = np.concatenate([best[1], numbers], axis=1)
        order = np.argpartition(-scores, AT - 1, axis=1)[:, :AT]
        best = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    return best[1]


if __name__ == "__main__":
    main()
