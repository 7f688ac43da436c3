"""MLR-CUHK03: extracted images of CUHK03 with two splits, from which it is made, and a prepared copy."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from reidx.data.datasets import MLRCUHK03
from reidx.testing.miniatures.base import Miniature, draw
from reidx.testing.miniatures.market import draw_split

PEOPLE = ((1, 1), (1, 2), (2, 1), (5, 3))
TESTED = (((1, 1),), ((1, 2), (5, 3)))
"""Camera pair and number of each person, and the test people of each split."""


def write_cuhk03(folder: Path, boxes: str = "labeled") -> None:
    """Draw ``cuhk03``: two images of each person in each view."""
    base = folder / "cuhk03"
    names: dict[tuple[int, int], list[str]] = {}
    for pair, person in PEOPLE:
        for view, image in ((1, 1), (1, 2), (2, 6), (2, 7)):
            name = f"{pair}_{person:03}_{view}_{image:02}.png"
            names.setdefault((pair, person), []).append(name)
            draw(base / f"images_{boxes}" / name, 10 * pair + person, view, image)
    splits = []
    for people in TESTED:
        entries = [[f"/elsewhere/{name}", 0, 0] for tested in people for name in names[tested]]
        splits.append({"train": [], "query": entries, "gallery": entries})
    (base / f"splits_classic_{boxes}.json").write_text(json.dumps(splits), encoding="utf-8")


def write_repacked(folder: Path) -> None:
    """Draw the folders of a prepared copy."""
    for place, people, cameras in (
        ("bounding_box_train", (1, 2), (1, 2)),
        ("query", (3, 4), (1,)),
        ("bounding_box_test", (3, 4, 5), (2,)),
    ):
        draw_split(folder / place, people, cameras, "{person:04}_c{camera}_{number}.png")


SHOT = ({"type": "SingleGalleryShot", "trials": 2},)
MINIATURES = (
    Miniature(
        MLRCUHK03.name,
        write_cuhk03,
        {"type": "MLRCUHK03", "split": 1},
        {"train": (8, 2, 2), "query": (4, 2, 1), "gallery": (4, 2, 1)},
        SHOT,
    ),
    Miniature(
        f"{MLRCUHK03.name} detected",
        partial(write_cuhk03, boxes="detected"),
        {"type": "MLRCUHK03", "images": "detected"},
        {"train": (12, 3, 2), "query": (2, 1, 1), "gallery": (2, 1, 1)},
        SHOT,
    ),
    Miniature(
        f"{MLRCUHK03.name} re-packed",
        write_repacked,
        {"type": "MLRCUHK03", "images": "repacked"},
        {"train": (8, 2, 2), "query": (4, 2, 1), "gallery": (6, 3, 1)},
        SHOT,
    ),
)
