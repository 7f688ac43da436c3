"""mAP, CMC and mINP against the whole distance matrix and a compiled sort per query: time and peak memory.

python -m benchmarks.ranking --queries 3368 --gallery 15913 --width 512
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.features import network_like
from benchmarks.measured import machine, measured


def _parts(path: str, queries: int) -> tuple[Any, ...]:
    data = np.load(path)
    x = torch.from_numpy(data["features"])
    ids, cams = data["ids"], data["cams"]
    return x[:queries], x[queries:], ids[:queries], ids[queries:], cams[:queries], cams[queries:]


def ours(path: str, queries: int) -> Callable[[], Any]:
    from reidx.evaluation import evaluate

    parts = _parts(path, queries)
    evaluate(*(part[:400] for part in parts))

    def work() -> tuple[float, float, np.ndarray]:
        result = evaluate(*parts)
        return result.mAP, result.mINP, result.cmc

    return work


def reference(path: str, queries: int) -> Callable[[], Any]:
    from benchmarks.reference.ranking import ranked

    parts = _parts(path, queries)
    ranked(*(part[:400] for part in parts))
    return lambda: ranked(*parts)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--queries", type=int, default=1000)
    options.add_argument("--gallery", type=int, default=5000)
    options.add_argument("--width", type=int, default=512)
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    images = chosen.queries + chosen.gallery
    features, ids, cams = network_like(images, chosen.width, max(2, chosen.gallery * 751 // 15913))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "features.npz")
        np.savez(path, features=features.numpy(), ids=ids.numpy(), cams=cams.numpy())
        print(f"{machine()}; {chosen.queries} queries x {chosen.gallery} gallery x {chosen.width}")
        print(f"{'':12}{'seconds':>10}{'peak MB':>10}{'mAP':>9}{'mINP':>9}{'rank-1':>9}")
        runs = []
        for name, prepare in (("reidx", ours), ("reference", reference)):
            run = measured(prepare, path, chosen.queries, repeats=chosen.repeats)
            mAP, mINP, cmc = run.result
            print(
                f"{name:12}{run.seconds:10.2f}{run.megabytes:10.0f}{mAP:9.5f}{mINP:9.5f}{cmc[0]:9.5f}",
                flush=True,
            )
            runs.append(run)
    mine, peer = runs
    print(f"{'ratio':12}{peer.seconds / mine.seconds:9.1f}x{peer.megabytes / max(mine.megabytes, 1):9.1f}x")


if __name__ == "__main__":
    main()
