"""CUHK03 as torchreid extracts it: two camera pairs, both kinds of boxes, the new partition and two classic splits."""

from __future__ import annotations

import json
from pathlib import Path

from reidx.testing.miniatures.base import Miniature, draw

BOXES = ("detected", "labeled")
PEOPLE = ((1, 1), (1, 2), (1, 3), (5, 1), (5, 2))
"""Camera pair and number in it of each person."""
TESTED = ((1, 2), (5, 1))
"""Test people of the new partition; the classic splits test the people from the first or the second on."""
IMAGES = (1, 2, 6, 7)
"""Numbers of a person's images; view 2 begins with 6."""


def name_of(person: tuple[int, int], image: int) -> str:
    """File name of an image."""
    return f"{person[0]}_{person[1]:03d}_{1 if image < 6 else 2}_{image:02d}.png"


def write(folder: Path) -> None:
    """Draw ``cuhk03``; the paths in its splits are those of another machine, as after a move."""
    base = folder / "cuhk03"
    for boxes in BOXES:
        for number, person in enumerate(PEOPLE):
            for image in IMAGES:
                draw(base / f"images_{boxes}" / name_of(person, image), number, image > 5, image)
        for kind, splits in (("new", [_new(boxes)]), ("classic", [_classic(boxes, first) for first in (0, 1)])):
            (base / f"splits_{kind}_{boxes}.json").write_text(json.dumps(splits), encoding="utf-8")


def _entries(boxes: str, people: list[tuple[int, int]], images: tuple[int, ...] = IMAGES) -> list[list[object]]:
    """Entries of a split: path, label and camera of each image."""
    return [
        [f"/home/another/data/cuhk03/images_{boxes}/{name_of(person, image)}", number, int(image > 5)]
        for number, person in enumerate(people)
        for image in images
    ]


def _new(boxes: str) -> dict[str, object]:
    people = [person for person in PEOPLE if person not in TESTED]
    query, gallery = (_entries(boxes, list(TESTED), images) for images in ((1, 6), (2, 7)))
    return {"train": _entries(boxes, people), "query": query, "gallery": gallery, "num_query_imgs": len(query)}


def _classic(boxes: str, first: int) -> dict[str, object]:
    people = list(PEOPLE[first : first + 2])
    tested = _entries(boxes, people)
    return {"train": _entries(boxes, [p for p in PEOPLE if p not in people]), "query": tested, "gallery": tested}


MINIATURES = (
    Miniature("CUHK03", write, {"type": "CUHK03"}, {"train": (12, 3, 2), "query": (4, 2, 2), "gallery": (4, 2, 2)}),
    Miniature(
        "CUHK03-classic",
        write,
        {"type": "CUHK03", "images": "labeled", "partition": "classic", "split": 1},
        {"train": (12, 3, 2), "query": (8, 2, 2), "gallery": (8, 2, 2)},
        ({"type": "SingleGalleryShot"},),
    ),
)
