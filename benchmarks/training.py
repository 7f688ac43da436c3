"""Images per second of training: the field's loop, a stage of reidx, and the stage's step written out in bare PyTorch.

The three train the same network on the same images with the same loss, in separate processes that take turns (a round of
steps each), so that drift of the machine affects all of them equally. Labels are fixed, so relabelling is not included. The
overhead of the stage is its time beyond the bare step; both use images that are already decoded.

python -m benchmarks.training --backbone "{type: osnet.OSNet, width: 0.25}"
python -m benchmarks.training --backbone "{type: Timm, name: resnet50}" --images 512 --steps 6
python -m benchmarks.training --table --batch 8 4
python -m benchmarks.training --backbone "{type: Timm, name: resnet50}" --batch 16 16 --device cuda --workers 8
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import formats
from benchmarks.measured import Turns, in_turns, machine
from reidx.engine.precision import fastest

Turn = Callable[[float | None], None]
"""Function that reports the seconds of the last round (None: ready) and returns when the next one may start."""


@dataclass
class Settings:
    """Settings of a contender; ``table`` is the path of the list of images."""

    table: str
    backbone: dict[str, Any]
    size: tuple[int, int]
    batch: tuple[int, int]
    steps: int
    rounds: int
    device: str
    precision: str
    workers: int
    folder: str

    def experiment(self) -> dict[str, Any]:
        """Return the stage as a config. Its labels are the identities, so nothing is clustered."""
        identities, instances = self.batch
        target = {
            "domain": "target",
            "labels": "identity",
            "sampler": {"type": "PK", "identities": identities, "instances": instances},
        }
        return {
            "name": "speed",
            "data": {
                "image_size": list(self.size),
                "domains": {"target": {"type": "CSV", "path": self.table}},
                "cache_on": "device",
            },
            "model": {"backbone": self.backbone, "fusion": {"type": "GlobalPool", "pool": "gem"}},
            "precision": self.precision,
            "streams": {"target": target},
            "memories": {"centroids": {"memory": "cluster_contrast.ClusterMemory", "labels": "identity"}},
            "objective": [{"loss": "MemoryContrast", "memory": "centroids"}],
            "stages": [{"name": "adapt", "epochs": self.rounds + 1, "iters": self.steps}],
        }

    def parts(self) -> tuple[Any, list[str], list[int], Any]:
        """Return the network, paths, classes and an endless source of batches, for the loops without an engine."""
        import numpy as np

        from reidx.data.datasets import CSV
        from reidx.data.samplers import PK
        from reidx.models.network import build_network

        torch.manual_seed(0)
        model = {"backbone": self.backbone, "fusion": {"type": "GlobalPool", "pool": "gem"}, "bn_group": 64, "freeze": []}
        train = CSV(self.table).train
        classes = train.classes()

        def order() -> Iterator[list[int]]:
            identities, instances = self.batch
            sampler = PK(classes, 1, train.cameras, identities, instances)
            yield from (batch.tolist() for batch in sampler.plan(np.random.default_rng(0)))

        return build_network(model, self.size), train.paths, classes.tolist(), order()


def field(settings: Settings, turn: Turn) -> None:
    """Train with the field's usual loop."""
    from torch import nn

    from benchmarks.reference.training import Loop

    class Embed(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)["embed"]

    network, paths, classes, order = settings.parts()
    dim = network.dims["embed"]
    table = nn.functional.normalize(torch.randn(max(classes) + 1, dim))
    loop = Loop(
        Embed(network),
        table,
        paths,
        classes,
        settings.size,
        order,
        torch.device(settings.device),
        settings.workers,
    )
    loop.steps(settings.steps)
    seconds = None
    for _ in range(settings.rounds):
        turn(seconds)
        seconds = loop.steps(settings.steps)
    turn(seconds)


def stage(settings: Settings, turn: Turn) -> None:
    """Train a stage as `reidx train` does."""
    import reidx
    from reidx.data.domains import Domains
    from reidx.engine.seeding import seed_everything
    from reidx.engine.stage import StageRun
    from reidx.machine.allocator import keep_freed_memory
    from reidx.reporting.reporter import Reporter

    class InTurns(StageRun):
        def _prepare(self, epoch: int) -> dict[str, float]:
            report = super()._prepare(epoch)
            if epoch > 0:  # the first one warms up
                history = self.runner.train_loop.history  # type: ignore[union-attr]
                turn(history[-1]["seconds_train"] if epoch > 1 else None)
            return report

    multiprocessing.set_start_method("fork", force=True)  # mmengine would do it with a warning
    if settings.device == "cpu":
        torch.cuda.is_available = lambda: False
    keep_freed_memory()
    path = Path(settings.folder) / "speed.yaml"
    path.write_text(yaml.safe_dump(settings.experiment()), encoding="utf-8")
    config = reidx.load_config(path)
    seed_everything(0)
    run = InTurns(
        config.experiment.stages[0],
        0,
        0,
        Domains(config.data["data"]),
        Path(settings.folder) / "run",
        Path,
        Reporter("quiet"),
    )
    turn(run.run(resume=False)[-1]["seconds_train"])


def by_hand(settings: Settings, turn: Turn) -> None:
    """Train without an engine: same images, transform, network, format, precision, memory and optimiser as the stage."""
    import torch.nn.functional as F
    from reidx_cluster_contrast.memory import ClusterMemory

    from reidx.data.images import ImageStore
    from reidx.data.transforms import ReidAugment
    from reidx.machine.allocator import keep_freed_memory

    keep_freed_memory()
    device = torch.device(settings.device)
    network, paths, classes, order = settings.parts()
    low = settings.precision == "bf16"
    layout = torch.channels_last
    network = network.to(device).to(memory_format=layout).train()
    memory = ClusterMemory(network.dims["embed"]).to(device)
    memory.rows = F.normalize(torch.randn(max(classes) + 1, network.dims["embed"], device=device))
    store = ImageStore(paths, settings.size)
    store.move_to(device)
    labels, augment = torch.tensor(classes), ReidAugment(mean=network.mean, std=network.std)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3.5e-4, weight_decay=5e-4)

    def steps() -> float:
        start = time.perf_counter()
        total = torch.zeros((), device=device)
        for _ in range(settings.steps):
            positions = next(order)
            images, targets = store.batch(positions).to(device, non_blocking=True), labels[positions]
            there = targets.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                features = network(augment.batch(images).contiguous(memory_format=layout))["embed"]
                loss = F.cross_entropy(memory(features) / 0.05, there)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            memory.update(features.detach(), there, there)
            total += loss.detach()
        float(total)  # waits for the GPU, as the engine does at the end of an epoch
        return time.perf_counter() - start

    steps()
    seconds = None
    for _ in range(settings.rounds):
        turn(seconds)
        seconds = steps()
    turn(seconds)


CONTENDERS = {"field's loop": field, "reidx": stage, "by hand": by_hand}


def listed(folder: Path, root: str | None, images: int) -> str:
    """Write a table of about ``images`` training images of whole identities, from Market-1501 under ``root`` or rendered."""
    from reidx_synthetic.domain import render_domain

    from reidx.data.datasets import Market1501

    if root is None:
        rendered = (max(images // 16, 2), 1)
        root = str(render_domain(folder / "images", identities=rendered, size=(128, 64)))
    train = Market1501(root).train
    assert train.ids is not None
    rows = sorted(zip(train.ids.tolist(), train.paths, train.cameras.tolist()))
    cut = rows[min(images, len(rows)) - 1][0]
    table = folder / "images.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "pid", "camid", "split"])
        writer.writerows([path, pid, camera, "train"] for pid, path, camera in rows if pid <= cut)
    return str(table)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--backbone", help=f"its spec, as in a config (default {formats.BACKBONES[0]})")
    options.add_argument("--table", action="store_true", help="only the step, by precision and memory format")
    options.add_argument("--seconds", type=float, default=60, help="of a line of the table")
    options.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))
    options.add_argument("--batch", type=int, nargs=2, default=(16, 4), metavar=("P", "K"))
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of reidx; the field's is fp32")
    options.add_argument("--images", type=int, default=2048)
    options.add_argument("--steps", type=int, default=20, help="steps per round")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--workers", type=int, default=2, help="workers of the field's loop")
    options.add_argument("--only", choices=list(CONTENDERS), nargs="+", default=list(CONTENDERS))
    options.add_argument("--root", help="a folder of Market-1501 (default: rendered images of 128 x 64)")
    chosen = options.parse_args()
    print(f"{machine(chosen.device)}, OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY', 'not set')}")
    if chosen.table:
        lines = [chosen.backbone] if chosen.backbone else formats.BACKBONES
        backbones = [(line, yaml.safe_load(line)) for line in lines]
        batch = chosen.batch[0] * chosen.batch[1]
        print(f"{batch} images of {chosen.size[0]}x{chosen.size[1]} a step")
        formats.table(backbones, tuple(chosen.size), batch, chosen.device, chosen.seconds)
        return
    chosen.backbone = chosen.backbone or formats.BACKBONES[0]
    if chosen.precision == "auto":
        chosen.precision, note = fastest(torch.device(chosen.device))
        print(note)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            listed(Path(folder), chosen.root, chosen.images),
            yaml.safe_load(chosen.backbone),
            tuple(chosen.size),
            tuple(chosen.batch),
            chosen.steps,
            chosen.rounds,
            chosen.device,
            chosen.precision,
            chosen.workers,
            folder,
        )
        images = len(Path(settings.table).read_text(encoding="utf-8").splitlines()) - 1
        print(
            f"{chosen.backbone}, {images} images of {chosen.size[0]}x{chosen.size[1]}, "
            f"batch {chosen.batch[0]}x{chosen.batch[1]}, {chosen.rounds} rounds of {chosen.steps} steps"
        )
        turns = in_turns([CONTENDERS[name] for name in chosen.only], chosen.rounds, settings)
    show(chosen, dict(zip(chosen.only, turns)))


def show(chosen: argparse.Namespace, turns: dict[str, Turns]) -> None:
    """Print the table: medians over rounds, and ratios as medians of the rounds' ratios."""
    how = {
        "field's loop": f"fp32, {chosen.workers} decoding workers",
        "reidx": f"{chosen.precision}, decoded once",
        "by hand": f"{chosen.precision}, decoded once",
    }
    images = chosen.steps * chosen.batch[0] * chosen.batch[1]
    seconds = {name: own.seconds for name, own in turns.items()}
    print(f"{'':14}{'images/s':>10}{'least':>9}{'most':>9}{'ms a step':>11}{'peak MB':>9}")
    for name, (times, megabytes) in turns.items():
        rate = [images / t for t in times]
        step = 1000 * statistics.median(times) / chosen.steps
        figures = f"{statistics.median(rate):10.1f}{min(rate):9.1f}{max(rate):9.1f}{step:11.1f}{megabytes:9.0f}"
        print(f"{name:14}{figures}   {how[name]}")
    if "reidx" in seconds:
        mine = seconds["reidx"]
        for name, peer in seconds.items():
            if name != "reidx":
                print(f"reidx / {name}: {statistics.median(p / m for p, m in zip(peer, mine)):.3f}x")
        if "by hand" in seconds:
            over = statistics.median(m / p for m, p in zip(mine, seconds["by hand"])) - 1
            print(f"overhead of reidx over its step by hand: {100 * over:+.1f} %")


if __name__ == "__main__":
    main()
