"""VIPeR, GRID and PRID2011: one image of a person in each of two cameras, and people without a query."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat

from reidx.testing.miniatures.base import Miniature, draw

PARTITIONS = [[1 + trial % 4, 1 + (trial + 1) % 4] for trial in range(10)]
"""Training people of GRID's trials, of four."""


def write_viper(folder: Path) -> None:
    """Draw ``viper/VIPeR``: six people, numbered from 0."""
    for camera, side in enumerate("ab"):
        for person in range(6):
            name = f"{person:03d}_{45 * (person + camera) % 180}.bmp"
            draw(folder / "viper" / "VIPeR" / f"cam_{side}" / name, person, camera, size=(128, 48))


def write_grid(folder: Path) -> None:
    """Draw ``grid/underground_reid``: four people, three images of background, and the partitions as cells of structures."""
    base = folder / "grid" / "underground_reid"
    for person in range(1, 5):
        draw(base / "probe" / f"{person:04d}_{person}_25004_107_32_106_221.jpeg", person, person)
        draw(base / "gallery" / f"{person:04d}_{person + 4}_25023_116_134_128_330.jpeg", person, person + 4)
    for number in range(3):
        draw(base / "gallery" / f"0000_{number + 1}_25{number:03d}_1_2_3_4.jpeg", 10 + number, number + 1)
    cells = np.empty((1, 10), object)
    for trial, people in enumerate(PARTITIONS):
        cells[0, trial] = {"first": 0.0, "second": 0.0, "third": np.array([people], float)}
    savemat(base / "features_and_partitions.mat", {"trainIdxAll": cells, "features": np.zeros((2, 2))})


def write_prid2011(folder: Path) -> None:
    """Draw ``prid2011/prid_2011``: people 1 to 4 in both cameras, 201 and 202 another person in each."""
    for camera, side in enumerate("ab"):
        for person in (1, 2, 3, 4, 201, 202):
            path = folder / "prid2011" / "prid_2011" / "single_shot" / f"cam_{side}" / f"person_{person:04d}.png"
            draw(path, person + 1000 * camera * (person > 200), camera, size=(128, 64))


MINIATURES = (
    Miniature("VIPeR", write_viper, {"type": "VIPeR"}, {"train": (6, 3, 2), "query": (3, 3, 1), "gallery": (3, 3, 1)}),
    Miniature("GRID", write_grid, {"type": "GRID"}, {"train": (4, 2, 4), "query": (2, 2, 2), "gallery": (5, 3, 5)}),
    Miniature("PRID2011", write_prid2011, {"type": "PRID2011"}, {"train": (4, 2, 2), "query": (2, 2, 1), "gallery": (4, 4, 1)}),
)
