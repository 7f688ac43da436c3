"""Pictures of a split: a contact sheet, the images of each identity under each camera, the sizes of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from reidx.data.datasets.base import Split
from reidx.data.decode import CorruptImage, decode

CELL = (128, 64)
"""Height and width of an image on a contact sheet in pixels."""
MARGIN, HEADER, LEFT = 4, 22, 64
"""Gap between images, height of the line of cameras, width of the column of identities."""
PER_IDENTITY = 8
"""Images of each identity on the sheet of a split without cameras."""
MEASURED = 2_000
"""Images whose size is measured, evenly spaced; a larger split would take long to decode."""
MARKED = 12
"""Labels on an axis."""
BINS, USUAL = 60, 99.5
"""Largest number of bars of a histogram; percentile of the counts at which the colours of the map end."""

CameraName = Callable[[int], object]


def contact_sheet(split: Split, camera_name: CameraName, identities: int) -> Image.Image:
    """Draw evenly spaced identities as rows: one image under each camera, or the first images if no cameras are known.

    An image that cannot be decoded is a red box. A split without identities has rows of consecutive images.
    """
    return draw_rows(split, camera_name, _rows(split, identities))


Row = tuple[str, np.ndarray]
"""The title of a row of images, and the positions of its images in their split."""


def draw_rows(split: Split, camera_name: CameraName, rows: Sequence[Row]) -> Image.Image:
    """Draw rows of images under their titles: one under each camera, or the first :data:`PER_IDENTITY`, if none is known."""
    cameras = np.unique(split.cameras[split.cameras >= 0]).tolist()
    columns = [f"camera {camera_name(camera)}" for camera in cameras] or [""] * PER_IDENTITY
    height, width = CELL
    size = LEFT + len(columns) * (width + MARGIN), HEADER + len(rows) * (height + MARGIN)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, title in enumerate(columns):
        pen.text((LEFT + column * (width + MARGIN), 4), title, "black", font)
    for row, (title, places) in enumerate(rows):
        top = HEADER + row * (height + MARGIN)
        pen.text((2, top + height // 2), title, "black", font)
        if cameras:
            seen = split.cameras[places]
            cells = [next(iter(places[seen == camera].tolist()), None) for camera in cameras]
        else:
            cells = places[:PER_IDENTITY].tolist()
        for column, place in enumerate(cells):
            if place is not None:
                sheet.paste(_cell(split.paths[place]), (LEFT + column * (width + MARGIN), top))
    return sheet


def _rows(split: Split, identities: int) -> list[Row]:
    """A title and the positions of the images of each row."""
    if split.ids is None:
        starts = np.unique(np.linspace(0, max(len(split) - PER_IDENTITY, 0), identities).astype(int))
        return [(str(start), np.arange(start, min(start + PER_IDENTITY, len(split)))) for start in starts.tolist()]
    known = np.unique(split.ids)
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(identities, len(known))).astype(int))]
    return [(f"id {who}", np.flatnonzero(split.ids == who)) for who in chosen.tolist()]


def _cell(path: str) -> Image.Image:
    """An image in the middle of a grey cell, with its proportions."""
    height, width = CELL
    try:
        image = ImageOps.contain(decode(path), (width, height))
    except CorruptImage:
        return Image.new("RGB", (width, height), (200, 0, 0))
    cell = Image.new("RGB", (width, height), (225, 225, 225))
    cell.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return cell


def camera_map(split: Split, camera_name: CameraName) -> Any:
    """Plot the number of images of each identity (row) under each camera (column); without cameras, their histogram."""
    if split.ids is None:
        return None
    figure, axes = _figure((6, 7))
    people, rows = np.unique(split.ids, return_inverse=True)
    cameras, columns = np.unique(split.cameras, return_inverse=True)
    if cameras.tolist() == [-1]:
        axes.hist(np.bincount(rows), bins=30)
        axes.set_xlabel("images of an identity")
        axes.set_ylabel("identities")
        return figure
    counts = np.zeros((len(people), len(cameras)), int)
    np.add.at(counts, (rows.reshape(-1), columns.reshape(-1)), 1)
    most = max(1, int(np.percentile(counts, USUAL)))  # a few people with many images would darken all others
    image = axes.imshow(counts, aspect="auto", interpolation="nearest", cmap="viridis", vmax=most)
    names = ["unknown" if camera < 0 else str(camera_name(camera)) for camera in cameras.tolist()]
    shown = _evenly(len(cameras))
    axes.set_xticks(shown, [names[place] for place in shown])
    marked = _evenly(len(people))
    axes.set_yticks(marked, people[marked])
    axes.set_xlabel("camera")
    axes.set_ylabel(f"identity ({len(people):,} in all)")
    absent = np.count_nonzero(counts == 0) / counts.size
    axes.set_title(f"{len(split):,} images; {absent:.0%} of the cells are empty", fontsize=10)
    figure.colorbar(image, label="images", extend="max" if counts.max() > most else "neither")
    return figure


def _evenly(count: int) -> list[int]:
    """Evenly spaced positions of at most ``MARKED`` of ``count`` labels, so that they do not overlap."""
    return np.unique(np.linspace(0, count - 1, min(count, MARKED)).astype(int)).tolist()


def size_histogram(split: Split) -> Any:
    """Plot the heights and widths of evenly spaced images; those that cannot be decoded are left out."""
    chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), MEASURED)).astype(int))
    sizes = []
    for place in chosen.tolist():
        try:
            sizes.append(decode(split.paths[place]).size)
        except CorruptImage:
            continue
    figure, axes = _figure((7, 4))
    widths, heights = np.array(sizes).reshape(-1, 2).T
    for values, name in ((heights, "height"), (widths, "width")):
        if len(values):
            bins = np.arange(values.min(), values.max() + 2) if np.ptp(values) < BINS else BINS
            axes.hist(values, bins=bins, label=name, alpha=0.7)
    axes.set_xlabel("pixels")
    axes.set_ylabel("images")
    axes.set_title(f"{len(sizes):,} of {len(split):,} images", fontsize=10)
    axes.legend()
    return figure


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def draw_pictures(split: Split, camera_name: CameraName, folder: Path, identities: int) -> list[Path]:
    """Write ``sheet.png``, ``cameras.png`` (if there are identities) and ``sizes.png`` into ``folder``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "sheet.png", folder / "cameras.png", folder / "sizes.png"]
    contact_sheet(split, camera_name, identities).save(paths[0])
    plots = camera_map(split, camera_name), size_histogram(split)
    for path, figure in zip(paths[1:], plots):
        if figure is not None:
            figure.savefig(path, dpi=110)
    return [path for path, drawn in zip(paths, (True, *plots)) if drawn is not None]
