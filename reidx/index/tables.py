"""The images that an index is asked to take: those of a folder, or of a table (CSV) with their cameras and times."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from reidx.data.address import parse_address
from reidx.data.datasets.folder import images_below
from reidx.errors import DataError
from reidx.index.rows import UNKNOWN, Rows
from reidx.index.times import parse_times

COLUMNS = {"path": "path", "id": "id", "pid": "id", "camera": "camera", "camid": "camera", "time": "time"}
"""Columns of a table by their headings; other columns are refused."""


def absolute(address: str, folder: Path | None = None) -> str:
    """Return the absolute path of an image, with the box of a crop; a relative one starts in ``folder`` (default: here)."""
    path, box = parse_address(address)
    whole = os.path.abspath(os.path.join(folder or "", path))
    return whole if box is None else f"{whole}{address[len(path) :]}"


def listed_images(source: Path) -> Rows:
    """Return the images of a folder with its sub-folders, or of a CSV table with the columns path, id, camera, time.

    Raises :class:`DataError` if there are none, and for a table that is not understood, with its line.
    """
    if source.is_dir():
        names = images_below(source).names
        if not names:
            raise DataError(f"{source} has no images.")
        return Rows([absolute(name, source) for name in names])
    if not source.is_file():
        raise DataError(f"There is no {source}. Give a folder of images, a table (CSV), or a file of embeddings.")
    if source.suffix.lower() != ".csv":
        raise DataError(f"{source} is neither a folder of images nor a table (CSV) nor a file of embeddings (.parquet, .npz).")
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            return _read_table(source, csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} cannot be read as a table: {error}.") from error


def _read_table(source: Path, reader: csv.DictReader[str]) -> Rows:
    headings = {name: COLUMNS.get(name.strip().lower()) for name in reader.fieldnames or ()}
    if unknown := [name for name, column in headings.items() if column is None]:
        raise DataError(f"{source}: the column {unknown[0]!r} is unknown; a table of images has path, id, camera and time.")
    if "path" not in headings.values():
        raise DataError(f"{source} has no column path.")
    columns: dict[str, list[str]] = {column: [] for column in headings.values() if column}
    for line in reader:
        if None in line or None in line.values():
            raise DataError(f"{source}, line {reader.line_num}: it has another number of values than there are columns.")
        for name, column in headings.items():
            columns[column or ""].append(line[name].strip())
        if not columns["path"][-1]:
            raise DataError(f"{source}, line {reader.line_num}: the path is empty.")
    if not columns["path"]:
        raise DataError(f"{source} lists no images.")
    times, form = parse_times(columns["time"], str(source)) if "time" in columns else (None, "numbers")
    ids, cameras = (_whole(columns[name], name, source) if name in columns else None for name in ("id", "camera"))
    return Rows([absolute(path, source.parent) for path in columns["path"]], ids, cameras, times, form)


def _whole(texts: list[str], name: str, source: Path) -> np.ndarray:
    """Return whole numbers (N,), -1 for empty texts."""
    try:
        return np.array([int(text) if text else UNKNOWN for text in texts], np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{source}: the column {name} has a value that is no whole number ({error}).") from error
