"""PRCC: three people for training, three for the test, of whom one was never seen in other clothes."""

from __future__ import annotations

from pathlib import Path

from reidx.testing.miniatures.base import Miniature, draw

TESTED = {"A": (4, 5, 30), "B": (4, 5, 30), "C": (4, 5)}
"""People under each camera of the test."""


def write(folder: Path) -> None:
    """Draw ``prcc``."""
    top = folder / "prcc" / "rgb"
    for split, number in (("train", 1), ("val", 9)):
        for person in (1, 2, 3):
            for camera in "ABC":
                _draw(top / split / f"{person:03}" / f"{camera}_cropped_rgb{number:03}.jpg", person, camera, number)
    for camera, people in TESTED.items():
        for person in people:
            for number in (1, 2):
                _draw(top / "test" / camera / f"{person:03}" / f"cropped_rgb{number:03}.jpg", person, camera, number)


def _draw(path: Path, person: int, camera: str, number: int) -> None:
    draw(path, 10 * person + (camera == "C"), "ABC".index(camera), number)


MINIATURES = (
    Miniature(
        "PRCC",
        write,
        {"type": "PRCC"},
        {"train": (9, 3, 3), "query": (10, 3, 2), "gallery": (6, 3, 1)},
        ({"type": "ClothChanging"}, {"type": "ClothChanging", "trials": 2}, {"type": "SameClothes"}),
    ),
)
