"""Does it still learn: people of two colours, told apart in a domain without labels by what was learnt in one with them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import reidx
from reidx.config import Config

Tiny = Callable[..., Config]


def domain_of_colours(folder: Path, side: str, light: float) -> Path:
    """A table of noisy images of people, one colour above, one below, under one light. 12 to learn from, 8 to test on."""
    random = np.random.default_rng(0 if side == "source" else 1)
    (folder / side).mkdir()
    rows = []
    for person in range(20):
        halves = random.uniform(60, 195, (2, 1, 1, 3))
        for number in range(9 if person < 12 else 6):
            image = np.concatenate(np.broadcast_to(halves, (2, 24, 24, 3))) * random.uniform(0.8, 1.2) * light
            image += random.normal(0, 10, (48, 24, 3)) + random.normal(0, 10, (12, 6, 3)).repeat(4, 0).repeat(4, 1)
            name, camera = f"{side}/{person}_{number}.png", number % 3
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / name)
            rows.append((name, person, camera, "train" if person < 12 else "query" if number < 3 else "gallery"))
    with (folder / f"{side}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "pid", "camid", "split"), *rows])
    return folder / f"{side}.csv"


def test_both_stages_learn(tiny: Tiny, tmp_path: Path) -> None:
    # so dark a target, and a network that begins so low, leave its first clusters room to become better
    tables = {side: domain_of_colours(tmp_path, side, light) for side, light in (("source", 1.0), ("target", 0.4))}
    domains = ", ".join(f"{side}: {{type: CSV, path: {path}}}" for side, path in tables.items())
    settings = [
        f"data.domains={{{domains}}}",
        *(f"stages.adapt.streams.{level}.sampler={{identities: 6, instances: 4}}" for level in "gul"),
        *(f"stages.adapt.streams.{level}.transform.erase=0" for level in "gul"),
        "stages.pretrain.streams.source.sampler={identities: 6, instances: 4}",
        "stages.pretrain.evaluate.before=true",
        "stages.pretrain.iters=8",
        "seed=2",
        "epochs=4",
        "iters=8",
        "model.bn_group=24",
        "labels.monitor=true",
        "optimizer.lr=1e-3",
    ]
    pretrain, adapt = reidx.run(tiny("uda", *settings), tmp_path / "run", progress="quiet").stages
    # the source teaches something of the target, and the target itself more, of people whom no clustering ever saw
    assert pretrain.last["mAP"] > pretrain.before["mAP"] + 0.03
    assert adapt.last["mAP"] > pretrain.last["mAP"] + 0.03
    # clusters of the fused features come to be people
    first, *_, last = adapt.history
    for level in "ul":
        assert last[f"{level}/ari"] > first[f"{level}/ari"] + 0.05
        assert last[f"{level}/ari"] > 0.6
    assert last["g/ari"] > 0.8
