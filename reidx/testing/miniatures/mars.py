"""MARS: tracklets of two or three frames; the query tracklets are those under camera 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from reidx.testing.miniatures.base import Miniature, draw

Tracklet = tuple[int, int, int]
"""Person (0: distractor, −1: junk), camera and number of frames."""
TRAIN: tuple[Tracklet, ...] = tuple((person, camera, 2) for person in (1, 2, 3) for camera in (1, 2))
TEST: tuple[Tracklet, ...] = ((-1, 4, 2), (0, 3, 2), *((person, camera, 3) for person in (4, 5) for camera in (1, 2, 6)))


def write(folder: Path) -> None:
    """Draw ``mars``."""
    base = folder / "mars"
    (base / "info").mkdir(parents=True)
    for split, tracklets in (("train", TRAIN), ("test", TEST)):
        names, rows = _draw(base / f"bbox_{split}", tracklets)
        (base / f"info/{split}_name.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        savemat(base / f"info/tracks_{split}_info.mat", {f"track_{split}_info": rows})
    queries = [number for number, (person, camera, _) in enumerate(TEST, start=1) if person > 0 and camera == 1]
    savemat(base / "info/query_IDX.mat", {"query_IDX": np.array([queries], np.float64)})


def _draw(folder: Path, tracklets: Sequence[Tracklet]) -> tuple[list[str], np.ndarray]:
    names: list[str] = []
    rows = []
    for number, (person, camera, frames) in enumerate(tracklets, start=1):
        called = f"{person:04d}" if person >= 0 else "00-1"
        rows.append((len(names) + 1, len(names) + frames, person, camera))
        for frame in range(1, frames + 1):
            names.append(f"{called}C{camera}T{number:04d}F{frame:03d}.jpg")
            draw(folder / called / names[-1], person, camera, frame)
    return names, np.array(rows, np.float64)


TRACKLETS = {"type": "Grouped", "query": "track", "gallery": "track"}
MINIATURES = (
    Miniature("MARS", write, {"type": "MARS"}, {"train": (12, 3, 2), "query": (6, 2, 1), "gallery": (20, 3, 4)}, (TRACKLETS,)),
    Miniature(
        "MARS without query tracklets",
        write,
        {"type": "MARS", "gallery": "rest"},
        {"train": (12, 3, 2), "query": (6, 2, 1), "gallery": (14, 3, 3)},
        (TRACKLETS,),
    ),
)
