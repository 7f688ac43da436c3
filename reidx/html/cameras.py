"""Section on cameras: whose images are found for the queries of each camera, and which are wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reidx.html.blocks import Cell, Missing, Section, Table
from reidx.html.measured import Measured
from reidx.html.source import Source, measured_parts


def camera_confusion(sources: Sequence[Source]) -> Section:
    """Tables of the camera of each query by the camera of its first gallery image, and the share that is wrong."""
    blocks: list[object] = []
    for _, measured in measured_parts(sources, blocks):
        if (measured.query.cameras < 0).any() or (measured.gallery.cameras < 0).any():
            blocks.append(Missing("The test set has images without a camera."))
            continue
        blocks += _tables(measured)
    intro = (
        "Rows are the cameras of the queries, columns those of their first gallery image. A method that has learnt the cameras "
        "instead of the people finds some cameras more often than others, and is wrong there."
    )
    return Section("cameras", "Cameras", intro, blocks)


def confusion(
    query_cameras: np.ndarray, first_cameras: np.ndarray, right: np.ndarray, cameras: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count queries (C,C) by their camera and that of their first gallery image, and the wrong ones among them (C,C)."""
    rows, columns = np.searchsorted(cameras, query_cameras), np.searchsorted(cameras, first_cameras)
    counts = np.zeros((len(cameras), len(cameras)), np.int64)
    wrong = np.zeros_like(counts)
    np.add.at(counts, (rows, columns), 1)
    np.add.at(wrong, (rows[~right], columns[~right]), 1)
    return counts, wrong


def _tables(measured: Measured) -> list[object]:
    details, query, gallery = measured.details, measured.query, measured.gallery
    assert query.ids is not None and gallery.ids is not None
    valid = np.flatnonzero(~np.isnan(details.ap))
    first = details.top[valid, 0]
    cameras = np.union1d(query.cameras, gallery.cameras)
    right = gallery.ids[first] == query.ids[valid]
    counts, wrong = confusion(query.cameras[valid], gallery.cameras[first], right, cameras)
    names = [f"camera {measured.camera(int(camera))}" for camera in cameras]
    scores = [details.ap[valid][query.cameras[valid] == camera] for camera in cameras]
    found: list[list[str | Cell]] = [
        [name, *(Cell(f"{n:,}", n / max(1, counts.max())) for n in row), "–" if not len(ap) else f"{100 * ap.mean():.1f}"]
        for name, row, ap in zip(names, counts.tolist(), scores)
    ]
    shares: list[list[str | Cell]] = [
        [name, *(Cell(f"{100 * w / n:.0f} % of {n:,}" if n else "–", w / n if n else 0) for w, n in zip(bad, row))]
        for name, bad, row in zip(names, wrong.tolist(), counts.tolist())
    ]
    note = "A protocol that ignores matches of the query's own camera leaves only wrong images on the diagonal."
    return [
        Table("Queries by the camera of their first gallery image", ["query", *names, "mAP in percent"], found),
        Table("Share of these first images that show another identity", ["query", *names], shares, note),
    ]
