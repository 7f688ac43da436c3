"""Market-1501 with ``gt_bbox``: several images of each identity and camera, of which a query has the mean."""

from __future__ import annotations

from pathlib import Path

from reidx.testing.miniatures.base import Miniature, draw


def write(folder: Path) -> None:
    """Draw ``Market-1501-v15.09.15``: people 1 to 3 for training, 4 and 5 for the test, a distractor and junk."""
    base = folder / "Market-1501-v15.09.15"
    for person in range(1, 6):
        for camera in (1, 2, 6):
            name = f"{person:04d}_c{camera}s1_{camera:06d}"
            draw(base / ("bounding_box_train" if person < 4 else "bounding_box_test") / f"{name}_01.jpg", person, camera)
            for number in range(3):
                draw(base / "gt_bbox" / f"{name}_0{number}.jpg", person, camera, number)
            if person >= 4 and camera != 6:
                draw(base / "query" / f"{name}_00.jpg", person, camera, 0)
    draw(base / "bounding_box_test" / "0000_c3s1_000001_01.jpg", 0, 3)
    draw(base / "bounding_box_test" / "-1_c3s1_000002_01.jpg", 9, 3)


SPLITS = {"train": (9, 3, 3), "gallery": (7, 3, 4)}
MINIATURES = (
    Miniature(
        "Market-1501 with several images of a query",
        write,
        {"type": "Market1501", "queries": "multi"},
        {**SPLITS, "query": (12, 2, 2)},
        ({"type": "Grouped", "query": "group"},),
    ),
)
