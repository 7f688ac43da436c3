"""Jaccard distance + DBSCAN against the field's dense procedure: time, peak memory, and agreement.

"reidx" is a relabelling: its graph holds only the pairs within eps, which DBSCAN reads. "all pairs" is the graph of all
distances below 1; a sample of its rows is compared with the dense matrix.

python -m benchmarks.pseudo_labels --images 12936 --width 512
python -m benchmarks.pseudo_labels --images 200000 --width 512 --alone
python -m benchmarks.pseudo_labels --images 1000000 --width 256 --alone --backend ivf
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.features import network_like
from benchmarks.measured import machine, measured

SAMPLED = 100  # rows whose distances are compared


def ours(path: str, eps: float, backend: str, device: str, within: float) -> Callable[[], Any]:
    from reidx.labels import DBSCAN, Jaccard

    features = torch.from_numpy(np.load(path)).to(device)
    distance, clusterer = Jaccard(backend=backend), DBSCAN(eps)
    clusterer(distance(features[:500]))
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # approximate search logs its recall
    logging.getLogger("faiss").setLevel(logging.WARNING)

    def work() -> Any:
        graph = distance(features, within)
        return clusterer(graph), graph[:SAMPLED], graph.nnz

    return work


def reference(path: str, eps: float) -> Callable[[], Any]:
    from benchmarks.reference.pseudo_labels import dbscan, jaccard_distance

    features = torch.from_numpy(np.load(path))
    dbscan(jaccard_distance(features[:500]), eps)

    def work() -> Any:
        distances = jaccard_distance(features)
        return dbscan(distances, eps), distances[:SAMPLED].copy(), distances.size

    return work


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--images", type=int, default=4000)
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--eps", type=float, default=0.6)
    options.add_argument("--backend", default="auto")
    options.add_argument("--device", default="cpu")
    options.add_argument("--repeats", type=int, default=1, help="measurements of each; the best counts")
    options.add_argument("--alone", action="store_true", help="leave the dense reference out")
    chosen = options.parse_args()
    identities = max(2, chosen.images * 751 // 12936)
    features, truth, _ = network_like(chosen.images, chosen.width, identities)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "features.npy")
        np.save(path, features.numpy())
        megabytes = features.numel() * 4 / (1 << 20)
        del features
        print(f"{machine()}; {chosen.images} x {chosen.width} ({megabytes:.0f} MB), eps {chosen.eps}")
        print(f"{'':12}{'seconds':>10}{'peak MB':>10}{'clusters':>10}{'ARI':>8}{'entries':>13}")
        kinds = {"reidx": chosen.eps} if chosen.alone else {"reidx": chosen.eps, "all pairs": 1.0}
        runs = {}
        for name, within in kinds.items():
            arguments = (path, chosen.eps, chosen.backend, chosen.device, within)
            runs[name] = measured(ours, *arguments, repeats=chosen.repeats)
            show(name, runs[name], truth.numpy())
        if chosen.alone:
            return
        peer = measured(reference, path, chosen.eps, repeats=chosen.repeats)
        show("reference", peer, truth.numpy())
    for name, mine in runs.items():
        differ = int((mine.result[0] != peer.result[0]).sum())
        rows = mine.result[1].tocoo()
        gap = np.abs(rows.data - peer.result[1][rows.row, rows.col]).max()
        print(
            f"{name:12}{peer.seconds / mine.seconds:9.1f}x{peer.megabytes / mine.megabytes:9.1f}x   "
            f"labels differ: {differ}, distances by at most {gap:.1e}"
        )
    near = peer.result[1] < 1 - 1e-5
    near[rows.row, rows.col] = False
    print(f"pairs that all pairs lacks, in {SAMPLED} rows: {int(near.sum())}")


def show(name: str, run: Any, truth: np.ndarray) -> None:
    from reidx.labels.pipeline import quality

    labels = run.result[0]
    agreement = quality(labels, truth)["ari"]
    print(
        f"{name:12}{run.seconds:10.2f}{run.megabytes:10.0f}{labels.max() + 1:10d}{agreement:8.3f}{run.result[2]:13d}",
        flush=True,
    )


if __name__ == "__main__":
    main()
