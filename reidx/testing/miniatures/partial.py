"""Partial-REID, Partial-iLIDS and Occluded-REID: queries and gallery alone."""

from __future__ import annotations

from pathlib import Path

from reidx.testing.miniatures.base import Miniature, draw

PROTOCOLS = ({"type": "NoCameraFilter"}, {"type": "SingleGalleryShot", "camera_filter": False})


def write_partial_reid(folder: Path) -> None:
    """Draw ``Partial_REID``: two images of each of three people in each folder, one more person in the gallery."""
    for part, people in (("partial_body_images", 3), ("whole_body_images", 4), ("occluded_body_images", 3)):
        for person in range(1, people + 1):
            for number in (1, 2):
                draw(folder / "Partial_REID" / part / f"{person:03d}_{number:03d}.jpg", person, 0, number)


def write_partial_ilids(folder: Path) -> None:
    """Draw ``PartialiLIDS``: one image of each person in each folder."""
    for part in ("query", "gallery"):
        for person in range(1, 5):
            draw(folder / "PartialiLIDS" / part / f"{person:03d}_{part == 'gallery':d}.jpg", person, part == "gallery")


def write_occluded_reid(folder: Path) -> None:
    """Draw ``Occluded_REID``: a folder for each person."""
    for part in ("occluded_body_images", "whole_body_images"):
        for person in range(1, 4):
            for number in (1, 2):
                name = f"{person:03d}_{number:02d}.tif"
                draw(folder / "Occluded_REID" / part / f"{person:03d}" / name, person, part[0] == "w", number)


MINIATURES = (
    Miniature(
        "Partial-REID",
        write_partial_reid,
        {"type": "PartialREID"},
        {"train": (0, 0, 0), "query": (6, 3, 0), "gallery": (8, 4, 0)},
        PROTOCOLS,
    ),
    Miniature(
        "Partial-iLIDS",
        write_partial_ilids,
        {"type": "PartialILIDS"},
        {"train": (0, 0, 0), "query": (4, 4, 0), "gallery": (4, 4, 0)},
        PROTOCOLS,
    ),
    Miniature(
        "Occluded-REID",
        write_occluded_reid,
        {"type": "OccludedREID"},
        {"train": (0, 0, 0), "query": (6, 3, 0), "gallery": (6, 3, 0)},
        PROTOCOLS,
    ),
)
