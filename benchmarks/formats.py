"""Images per second of a training step by precision and memory format, for several kinds of backbones.

The step is forward, backward and Adam, on prepared images. The four variants of a backbone take turns step by step, so that
drift of the machine affects all of them equally.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from reidx.machine.allocator import keep_freed_memory
from reidx.models.network import build_network

BACKBONES = (
    "{type: osnet.OSNet, width: 0.25}",
    "{type: Timm, name: resnet50}",
    "{type: Timm, name: mobilenetv3_large_100}",
    "{type: Timm, name: vit_tiny_patch16_224}",
)
VARIANTS = tuple(
    itertools.product(("fp32", "bf16"), (torch.contiguous_format, torch.channels_last))
)


def step(
    backbone: dict[str, Any], size: tuple[int, int], images: Any, precision: str, layout: torch.memory_format
) -> Callable[[], float]:
    """Return a function that makes one training step of a new network and returns its seconds."""
    device = images.device
    torch.manual_seed(0)
    model = {"backbone": backbone, "fusion": {"type": "GlobalPool", "pool": "gem"}, "bn_group": 64, "freeze": []}
    network = build_network(model, size)
    network = network.to(device).to(memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=3.5e-4)
    table = F.normalize(torch.randn(100, network.dims["embed"], device=device))
    targets = torch.arange(len(images), device=device) % 100
    images = images.contiguous(memory_format=layout)

    def one() -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            features = network(images)["embed"]
        loss = F.cross_entropy(features.float() @ table.T / 0.05, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return one


def rates(
    backbone: dict[str, Any], size: tuple[int, int], batch: int, device: str, seconds: float
) -> list[float]:
    """Return the images per second of each variant: medians over the turns that fit into ``seconds``, at least 3."""
    keep_freed_memory()
    images = torch.randn(batch, 3, *size, device=device)
    steps = [step(backbone, size, images, precision, layout) for precision, layout in VARIANTS]
    for one in steps:
        one()
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or time.perf_counter() < end:
        for one, own in zip(steps, times):
            own.append(one())
    return [batch / statistics.median(own) for own in times]


def table(backbones: Sequence[tuple[str, dict[str, Any]]], *settings: Any) -> None:
    """Print one line per backbone."""
    names = [f"{p} {'channels-last' if f is torch.channels_last else 'contiguous'}" for p, f in VARIANTS]
    print(f"{'images/s':44}" + "".join(f"{name:>20}" for name in names))
    for name, backbone in backbones:
        print(f"{name:44}" + "".join(f"{rate:20.1f}" for rate in rates(backbone, *settings)), flush=True)
