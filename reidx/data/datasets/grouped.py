"""Columns that group images: the tracks of a gallery from a list, and the images that stand for a query."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from reidx.data.datasets.base import Split
from reidx.data.datasets.lists import read_lines
from reidx.errors import DataError


def with_unknown(split: Split, column: str) -> Split:
    """The split with a column of −1, of images that are in no group."""
    return replace(split, columns={**split.columns, column: np.full(len(split), -1, np.int64)})


def with_tracks(split: Split, table: Path) -> tuple[Split, int]:
    """The images that a list of tracks names, with the column ``track``, from 0, and the number of the others.

    A line is ``TRACK IMAGE IMAGE …``; the first word is one of the images, too, if there is an image of that name. Raises
    :class:`DataError` for a track without images, an unknown image, and an image in two tracks, by the line.
    """
    places = {os.path.basename(path): place for place, path in enumerate(split.paths)}
    track, lines = np.full(len(split), -1, np.int64), np.zeros(len(split), np.int64)
    found = [(number, words) for number, line in enumerate(read_lines(table), start=1) if (words := line.split())]
    for index, (number, words) in enumerate(found):
        images = dict.fromkeys(words if words[0] in places else words[1:])
        if not images:
            raise DataError(f"{table}, line {number}: the track has no image; a line is TRACK IMAGE IMAGE ….")
        for image in images:
            if image not in places:
                folder = os.path.dirname(split.paths[0])
                raise DataError(f"{table}, line {number}: there is no image {image} in {folder}. Unpack the images again.")
            place = places[image]
            if track[place] >= 0:
                raise DataError(f"{table}, line {number}: {image} is in line {lines[place]}, too. Drop it from one of them.")
            track[place], lines[place] = index, number
    if not found:
        raise DataError(f"{table} lists no tracks.")
    tracked = replace(split, columns={**split.columns, "track": track})
    return tracked.select(track >= 0), int((track < 0).sum())


def images_of_queries(queries: Split, boxes: Split, folder: Path, camera_number: Callable[[int], int]) -> Split:
    """The images of ``boxes`` with the identity and camera of a query, with its number, from 0, in the column ``group``.

    Queries of one identity and camera are one group. Raises :class:`DataError` for a query without an image.
    """
    assert queries.ids is not None and boxes.ids is not None
    asked = dict.fromkeys(zip(queries.ids.tolist(), queries.cameras.tolist()))
    number = {pair: place for place, pair in enumerate(asked)}
    pairs = list(zip(boxes.ids.tolist(), boxes.cameras.tolist()))
    seen = set(pairs)
    for path, person, camera in zip(queries.paths, queries.ids.tolist(), queries.cameras.tolist()):
        if (person, camera) not in seen:
            raise DataError(
                f"{folder} has no image of identity {person} under camera {camera_number(camera)}, the query "
                f"{os.path.basename(path)}. Unpack the folder again."
            )
    rows = [(path, *pair, number[pair]) for path, pair in zip(boxes.paths, pairs) if pair in number]
    return Split.of(rows, "group")
