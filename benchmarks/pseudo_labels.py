"""Jaccard distance + DBSCAN against the field's dense procedure: time, peak memory, and whether they agree.

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


def ours(path: str, eps: float, backend: str, device: str, compared: bool) -> Callable[[], Any]:
    from reidx.labels import DBSCAN, Jaccard

    features = torch.from_numpy(np.load(path)).to(device)
    distance, clusterer = Jaccard(backend=backend), DBSCAN(eps)
    clusterer(distance(features[:500]))
    within = 1.0 if compared else eps  # a labelling keeps only what its clusterer looks at
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # approximate neighbours say their recall
    logging.getLogger("faiss").setLevel(logging.WARNING)

    def work() -> Any:
        graph = distance(features, within)
        if not compared:
            return clusterer(graph), None, graph.nnz
        rows = graph[:SAMPLED]
        sample = np.ones(rows.shape, np.float32)
        sample[np.repeat(np.arange(len(sample)), np.diff(rows.indptr)), rows.indices] = rows.data
        return clusterer(graph), sample, graph.nnz

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
    options.add_argument("--repeats", type=int, default=1, help="of each, the best counts")
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
        mine = measured(
            ours, path, chosen.eps, chosen.backend, chosen.device, not chosen.alone, repeats=chosen.repeats
        )
        show("reidx", mine, truth.numpy())
        if chosen.alone:
            return
        peer = measured(reference, path, chosen.eps, repeats=chosen.repeats)
        show("reference", peer, truth.numpy())
    differ = int((mine.result[0] != peer.result[0]).sum())
    print(
        f"{'ratio':12}{peer.seconds / mine.seconds:9.1f}x{peer.megabytes / mine.megabytes:9.1f}x   "
        f"labels differ: {differ}, distances by at most {np.abs(mine.result[1] - peer.result[1]).max():.1e}"
    )


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
