"""MSMT17 in its two versions with lists, and re-packed: five people for training, four for the test."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from reidx.data.datasets.msmt17 import IMAGES, MSMT17
from reidx.testing.miniatures.base import Miniature, draw
from reidx.testing.miniatures.market import draw_split

CAMERAS = {"train": (1, 2, 15), "val": (7,), "query": (1,), "gallery": (1, 2, 15)}
PEOPLE = {"train": range(5), "val": range(5), "query": range(3), "gallery": range(4)}
"""Cameras and people of each list."""


def write_published(folder: Path, version: str) -> None:
    """Draw the folders and lists of a version; training and test number their people separately."""
    learnt, tested = IMAGES[version]
    for part, people in PEOPLE.items():
        lines = []
        for person in people:
            for camera in CAMERAS[part]:
                for number in range(2 if part == "gallery" else 1):
                    name = f"{person:04}/{person:04}_{list(PEOPLE).index(part)}{number:02}_{camera:02}_0303morning_0015_0.jpg"
                    of_test = part in ("query", "gallery")
                    seen = person + 20 * of_test, camera, 10 * (part == "gallery") + number
                    draw(folder / f"MSMT17_{version}" / (tested if of_test else learnt) / name, *seen)
                    lines.append(f"{name} {person}\n")
        (folder / f"MSMT17_{version}" / f"list_{part}.txt").write_text("".join(lines), encoding="utf-8")


def write_repacked(folder: Path) -> None:
    """Draw the folders of a copy in Market-1501's grammar."""
    parts = ("bounding_box_train", "train"), ("query", "query"), ("bounding_box_test", "gallery")
    for number, (place, part) in enumerate(parts):
        draw_split(folder / place, PEOPLE[part], CAMERAS[part], "{person:04}_c{camera:02}_{number:04}.jpg", [number])


TESTED = {"query": (3, 3, 1), "gallery": (24, 4, 3)}
MINIATURES = (
    Miniature(
        f"{MSMT17.name} V1", partial(write_published, version="V1"), {"type": "MSMT17"}, {"train": (20, 5, 4), **TESTED}
    ),
    Miniature(
        f"{MSMT17.name} V2",
        partial(write_published, version="V2"),
        {"type": "MSMT17", "version": "V2", "train": "train"},
        {"train": (15, 5, 3), **TESTED},
    ),
    Miniature(
        f"{MSMT17.name} re-packed",
        write_repacked,
        {"type": "MSMT17", "version": "V1"},
        {"train": (15, 5, 3), "query": (3, 3, 1), "gallery": (12, 4, 3)},
    ),
)
