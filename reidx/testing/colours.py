"""Rendered people in two colours, which a tiny network learns within seconds."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NEUTRAL = ((1.0, 1.0, 1.0),) * 3
CASTS = ((1.05, 1.0, 0.95), (0.95, 1.05, 1.0), (1.0, 0.95, 1.05))
"""Gains of red, green and blue for each camera, a difference that a network must learn to ignore."""


def coloured_people(
    folder: Path,
    seed: int = 0,
    light: Sequence[float] = (1.0, 1.0, 1.0),
    casts: Sequence[Sequence[float]] = NEUTRAL,
    noise: tuple[float, float] = (30.0, 60.0),
    known: bool = False,
) -> Path:
    """Write images of people with one colour above and one below; return their table, for the data set ``CSV``.

    Three cameras show 12 people for training, 9 images each, and 8 others for the test, 6 images each; with ``known`` the test
    shows the first 12 instead. ``noise`` is the deviation of fine and of coarse noise; the default confuses an untrained
    network.
    """
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    rows = []
    for person in range(12 if known else 20):
        halves = random.uniform(60, 195, (2, 1, 1, 3))
        trained = 9 if person < 12 else 0
        for number in range(trained + 6 if known or not trained else trained):
            camera = number % 3
            image = np.concatenate(np.broadcast_to(halves, (2, 24, 24, 3))) * random.uniform(0.8, 1.2) * light * casts[camera]
            image += random.normal(0, noise[0], (48, 24, 3))
            image += random.normal(0, noise[1], (12, 6, 3)).repeat(4, 0).repeat(4, 1)
            name = f"{person}_{number}.png"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / name)
            split = "train" if number < trained else "query" if number < trained + 3 else "gallery"
            rows.append((name, person, camera, split))
    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "pid", "camid", "split"), *rows])
    return folder / "people.csv"
