"""SYSU-MM01, in which not every camera saw each person, and RegDB with two trials."""

from __future__ import annotations

from pathlib import Path

from reidx.data.datasets import SYSUMM01, RegDB
from reidx.testing.miniatures.base import Miniature, draw

SPLITS = {"train": (4, 9), "val": (2,), "test": (6, 10)}
SEEN = {4: (1, 3), 9: (2, 5, 6), 2: (1, 6), 6: (1, 2, 3, 4, 6), 10: (2, 3, 5)}
"""People of the lists of SYSU-MM01, and the cameras that saw each; two images each."""


def write_sysu(folder: Path) -> None:
    """Draw ``SYSU-MM01``."""
    base = folder / "SYSU-MM01"
    for person, cameras in SEEN.items():
        for camera in cameras:
            for number in (1, 2):
                draw(base / f"cam{camera}" / f"{person:04}" / f"{number:04}.jpg", person, camera, number)
    (base / "exp").mkdir()
    for split, people in SPLITS.items():
        (base / "exp" / f"{split}_id.txt").write_text(",".join(map(str, people)), encoding="utf-8")


def write_regdb(folder: Path) -> None:
    """Draw ``RegDB``: two people for training and two for the test, two images of each modality; trial 2 swaps them."""
    base = folder / "RegDB"
    (base / "idx").mkdir(parents=True)
    for trial, (learnt, tested) in enumerate((((1, 2), (3, 4)), ((3, 4), (1, 2))), start=1):
        for split, people in (("train", learnt), ("test", tested)):
            for camera, (kind, place) in enumerate((("visible", "Visible"), ("thermal", "Thermal"))):
                lines = []
                for number, person in enumerate(people):
                    for image in (1, 2):
                        name = f"{place}/{person}/male_front_{kind[0]}_{image:05}_{person}.bmp"
                        draw(base / name, person, camera, image)
                        lines.append(f"{name} {number}\n")
                (base / "idx" / f"{split}_{kind}_{trial}.txt").write_text("".join(lines), encoding="utf-8")


MINIATURES = (
    Miniature(
        SYSUMM01.name,
        write_sysu,
        {"type": "SYSUMM01"},
        {"train": (14, 3, 5), "query": (6, 2, 2), "gallery": (10, 2, 4)},
        ({"type": "SYSUMM01"}, {"type": "SYSUMM01", "search": "indoor", "shots": "multi"}),
    ),
    Miniature(
        RegDB.name,
        write_regdb,
        {"type": "RegDB", "trial": 2, "query": "infrared"},
        {"train": (8, 2, 2), "query": (4, 2, 1), "gallery": (4, 2, 1)},
        ({"type": "NoCameraFilter"},),
    ),
)
