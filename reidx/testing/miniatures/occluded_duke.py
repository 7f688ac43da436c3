"""Occluded-Duke: the lists, next to DukeMTMC-reID's folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reidx.testing.miniatures.base import Miniature, draw

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def name_of(person: int, camera: int, frame: int) -> str:
    """File name of an image."""
    return f"{person:04d}_c{camera}_f{frame:07d}.jpg"


DUKE: Mapping[str, list[tuple[int, int, int]]] = {
    "train": [(person, camera, frame) for person in (1, 2, 3) for camera in (1, 2, 8) for frame in (1, 2)],
    "query": [(person, 1, 3) for person in (4, 5)],
    "gallery": [(person, camera, frame) for person in (4, 5, 6) for camera in (2, 8) for frame in (4, 5)],
}
"""Person, camera and frame of the images of each split of DukeMTMC-reID."""
LISTED: Mapping[str, list[tuple[int, int, int]]] = {
    "train": [image for image in DUKE["train"] if image[0] != 3],
    "query": [(4, 1, 3), (5, 2, 4)],
    "gallery": [image for image in DUKE["gallery"] if image != (5, 2, 4)],
}
"""Those of the lists: one query is a gallery image of DukeMTMC-reID; some images are in no list."""


def write(folder: Path) -> None:
    """Draw ``Occluded_Duke`` with the lists, whose last lines do not end, and ``DukeMTMC-reID`` with the images."""
    (folder / "Occluded_Duke").mkdir()
    for split, images in LISTED.items():
        text = "\n".join(name_of(*image) for image in images)
        (folder / "Occluded_Duke" / f"{split}.list").write_text(text, encoding="utf-8")
    for split, images in DUKE.items():
        for image in images:
            draw(folder / "DukeMTMC-reID" / FOLDERS[split] / name_of(*image), *image)


MINIATURES = (
    Miniature(
        "Occluded-Duke",
        write,
        {"type": "OccludedDuke"},
        {"train": (12, 2, 3), "query": (2, 2, 2), "gallery": (11, 3, 2)},
    ),
)
