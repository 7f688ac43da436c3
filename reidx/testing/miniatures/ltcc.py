"""LTCC: two outfits of each person, under cameras 1, 2 and 12."""

from __future__ import annotations

from pathlib import Path

from reidx.testing.miniatures.base import Miniature, draw

FOLDERS = {"train": range(4), "query": range(4, 6), "test": range(4, 7)}
"""People of each folder; person 6 of the gallery is in no query."""


def write(folder: Path) -> None:
    """Draw ``LTCC_ReID``."""
    number = 0
    for split, people in FOLDERS.items():
        for person in people:
            for outfit in (1, 2):
                for camera in (1, 2, 12) if split != "query" else (1,):
                    number += 1
                    name = f"{person:03d}_{outfit}_c{camera}_{number:06d}.png"
                    draw(folder / "LTCC_ReID" / split / name, 10 * person + outfit, camera, number)


MINIATURES = (
    Miniature(
        "LTCC",
        write,
        {"type": "LTCC"},
        {"train": (24, 4, 3), "query": (4, 2, 1), "gallery": (18, 3, 3)},
        ({"type": "Market1501"}, {"type": "ClothChanging"}, {"type": "SameClothes"}),
    ),
)
