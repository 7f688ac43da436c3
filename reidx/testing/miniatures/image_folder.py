"""A folder of the user's own images: identity and camera in the file names, a test drawn from them."""

from __future__ import annotations

from pathlib import Path

from reidx.testing.miniatures.base import Miniature, draw


def write(folder: Path) -> None:
    """Draw six people under two cameras, three images each."""
    for person in range(6):
        for camera in (1, 2):
            for number in range(3):
                draw(folder / "images" / f"{person:03d}_c{camera}_{number}.jpg", person, camera, number)


MINIATURES = (
    Miniature(
        "ImageFolder",
        write,
        {"type": "ImageFolder", "pattern": r"(?P<pid>\d+)_c(?P<camid>\d+)", "test": 0.5},
        {"train": (18, 3, 2), "query": (6, 3, 2), "gallery": (12, 3, 2)},
        ({"type": "Market1501"}, {"type": "NoCameraFilter"}),
    ),
)
