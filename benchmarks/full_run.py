"""A whole training by a config, and its time by part: relabelling, training, evaluation, the rest.

The rest is decoding, checks, and reading and writing checkpoints. Without a GPU, try a small run:

python -m benchmarks.full_run --root /path/to/Market-1501-v15.09.15
python -m benchmarks.full_run --set stages.adapt.epochs=1 stages.adapt.iters=2 model.backbone.pretrained=false \\
    'labels.clusterer={type: KMeans, n_clusters: 16}'
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from reidx_synthetic.domain import render_domain

import reidx
from benchmarks.measured import machine

PARTS = ("relabel", "train", "evaluate")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("config", nargs="?", default="reidx::market1501/resnet50_imagenet_usl.yaml")
    options.add_argument("--root", help="Market-1501; without it, a small domain that the plugin synthetic renders")
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config")
    options.add_argument("--work-dir", help="the run's folder (default: a temporary one)")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = chosen.root or render_domain(Path(folder) / "images", identities=(16, 8), size=(128, 64))
        config = reidx.load_config(chosen.config, [f"data.domains.target.root={root}", *chosen.set])
        start = time.perf_counter()
        result = reidx.run(config, chosen.work_dir or Path(folder) / "run")
        whole = time.perf_counter() - start
    print(machine("cuda" if torch.cuda.is_available() else "cpu"))
    for stage in result.stages:
        seconds = {part: sum(entry[f"seconds_{part}"] for entry in stage.history) for part in PARTS}
        shares = ", ".join(f"{part} {own:.1f} s ({100 * own / whole:.0f} %)" for part, own in seconds.items())
        print(f"{stage.name}, {len(stage.history)} epochs: {shares}")
    print(f"in all {whole:.1f} s")
    if torch.cuda.is_available():
        print(f"most memory on the GPU: {torch.cuda.max_memory_allocated() / (1 << 30):.1f} GB")
    print(result.table())


if __name__ == "__main__":
    main()
