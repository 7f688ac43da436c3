"""A picture of rankings: in each row a query and its nearest gallery images, marked as right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from reidx.data.datasets import Split
from reidx.data.decode import decode
from reidx.evaluation.results import Details

RIGHT, WRONG, QUERY = (34, 139, 34), (200, 30, 30), (60, 60, 60)
GAP, FRAME, HEAD = 6, 3, 16
TICK = (((0, 5), (3, 8), (8, 1)),)
CROSS = (((0, 1), (8, 8)), ((0, 8), (8, 1)))
"""Strokes of the marks next to the ranks, so that a list can be read without its colours."""


def pick_queries(details: Details, rows: int) -> list[int]:
    """Queries spread evenly from the best to the worst average precision; queries without a match are left out."""
    valid = np.flatnonzero(~np.isnan(details.ap))
    order = valid[np.argsort(-details.ap[valid], kind="stable")]
    places = np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int)
    return [int(order[place]) for place in dict.fromkeys(places.tolist())]


def ranked_list(
    query: Split,
    gallery: Split,
    details: Details,
    queries: Sequence[int] | None = None,
    *,
    rows: int = 8,
    size: tuple[int, int] = (128, 64),
) -> Image.Image:
    """Draw a grid: in each row a query at the left, then its nearest gallery images, best first.

    A tick and a green frame mark the query's identity, a cross and a red frame another identity; images that the protocol
    ignores are not shown. By default ``rows`` queries from the best to the worst. ``size`` is (height, width) of a cell in
    pixels.
    """
    height, width = size
    chosen = list(queries) if queries is not None else pick_queries(details, rows)
    columns = details.top.shape[1] + 1
    sheet = Image.new(
        "RGB", (columns * (width + GAP) + 3 * GAP, len(chosen) * (height + HEAD + GAP) + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    assert query.ids is not None and gallery.ids is not None
    for row, index in enumerate(chosen):
        top = GAP + row * (height + HEAD + GAP)
        shown = [(query.paths[index], QUERY, f"AP {100 * details.ap[index]:.0f}")]
        for rank, found in enumerate(details.top[index]):
            if found >= 0:
                right = gallery.ids[found] == query.ids[index]
                shown.append((gallery.paths[found], RIGHT if right else WRONG, f"{rank + 1}"))
        for column, (path, colour, text) in enumerate(shown):
            left = GAP + column * (width + GAP) + (2 * GAP if column else 0)
            cell = decode(path).resize((width - 2 * FRAME, height - 2 * FRAME))
            draw.rectangle((left, top + HEAD, left + width - 1, top + HEAD + height - 1), fill=colour)
            sheet.paste(cell, (left + FRAME, top + HEAD + FRAME))
            draw.text((left + 2, top + 2), text, fill=colour)
            if column:
                mark = TICK if colour == RIGHT else CROSS
                for stroke in mark:
                    draw.line([(left + width - 12 + x, top + 4 + y) for x, y in stroke], fill=colour, width=2)
    return sheet
