"""Exported networks: agreement with the original on real images, and latency in onnxruntime as a share of torch's.

    python -m benchmarks.export [--images FOLDER] [--seconds 4] [--threads 1]

Each network is written as an ONNX file and compared by ``reidx export``'s own check. Then both runtimes embed batches of 1
and 32 images in turn, so that a busy machine slows both; the table shows the medians and their ratio. Networks whose weights
are not in ``../shared/weights`` are left out, with the reason.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reidx.export.onnx_file import open_onnx
from reidx.export.write import export
from reidx.inference import ReID
from reidx.inference.sources import Trained
from reidx.models.network import build_network
from reidx.registry.build import fill_defaults
from reidx.registry.registry import KINDS

WEIGHTS = Path("../shared/weights")
MARKET = Path("data/Market-1501-v15.09.15/query")
BATCHES = (1, 32)

NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "OSNet x0.25, MSMT17": ({"type": "osnet.OSNet", "width": 0.25}, {"type": "osnet.Embedding"}, "osnet_x0_25_msmt17.pth"),
    "EfficientNet-Lite0, ImageNet": (
        {"type": "Timm", "name": "tf_efficientnet_lite0"},
        {"type": "GlobalPool", "pool": "avg"},
        "tf_efficientnet_lite0_imagenet.pth",
    ),
    "ResNet-50, random": ({"type": "Timm", "name": "resnet50"}, {"type": "GlobalPool"}, ""),
    "ViT-S/16, random": (
        {"type": "Timm", "name": "vit_small_patch16_224", "tokens": ["class_token"]},
        {"type": "ClassToken"},
        "",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=MARKET, help="folder of images for the comparison")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each latency")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both runtimes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="networks whose names begin so")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name in NETWORKS:
        if not chosen.only or name.startswith(tuple(chosen.only)):
            _row(name, chosen.images, chosen.seconds, chosen.threads)


def _row(name: str, images: Path, seconds: float, threads: int) -> None:
    backbone, fusion, file = NETWORKS[name]
    if file and not (WEIGHTS / file).is_file():
        print(f"{name}: left out, there is no {WEIGHTS / file}")
        return
    model = network(backbone, fusion, str(WEIGHTS / file) if file else None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        parity = export(model, path, images=images if images.is_dir() else None, count=200)
        print(f"{name} ({path.stat().st_size / 1e6:.1f} MB)\n  {parity}", flush=True)
        exported = open_onnx(path, threads)
    for size in BATCHES:
        batch = torch.randn(size, 3, *model.image_size)
        of_torch = batch.contiguous(memory_format=torch.channels_last)
        ours, theirs = latencies([partial(model.network, of_torch), partial(exported, batch)], seconds)
        times = f"torch {ours * 1e3:8.1f} ms, onnxruntime {theirs * 1e3:8.1f} ms, ratio {theirs / ours:.2f}"
        print(f"  batch {size:>2}: {times}", flush=True)


def network(backbone: dict[str, Any], fusion: dict[str, Any], weights: str | None) -> ReID:
    """The network for images of 256x128, with the file of weights in each part that reads one."""
    torch.manual_seed(0)
    model: dict[str, Any] = {"bn_group": None, "freeze": [], "domain_bn": False}
    for kind, part in (("backbone", backbone), ("fusion", fusion)):
        reads = weights is not None and (kind == "backbone" or part["type"] == "osnet.Embedding")
        spec = {**part, "weights": weights} if reads else part
        model[kind] = fill_defaults(kind, spec, KINDS[kind].context)
    return ReID(Trained("network", build_network(model, (256, 128)), model, (256, 128), "bilinear"), "cpu", "fp32")


@torch.no_grad()
def latencies(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """The median time of each call in seconds; the calls take turns."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    until = time.monotonic() + seconds * len(calls)
    while time.monotonic() < until or len(times[0]) < 5:
        for call, its in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            its.append(time.perf_counter() - start)
    return [statistics.median(its) for its in times]


if __name__ == "__main__":
    main()
