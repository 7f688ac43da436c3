"""Picture of ranked lists: the image and the frame in each cell, the choice of queries; and the colour control."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidx.data.datasets import Split
from reidx.evaluation.colour_control import colour_control, colour_histogram
from reidx.evaluation.ranked_list import (
    FRAME,
    GAP,
    HEAD,
    QUERY,
    RIGHT,
    WRONG,
    pick_queries,
    ranked_list,
)
from reidx.evaluation.results import Details
from reidx.testing.tiny import IMAGE_SIZE, tiny_domain

HEIGHT, WIDTH = 30, 20


def split_of(folder: Path, name: str, ids: list[int]) -> Split:
    """Write images of one flat colour each, which identifies the image: (10 + 20 i, side, 200)."""
    paths = []
    for i in range(len(ids)):
        path = folder / f"{name}{i}.png"
        Image.new("RGB", (8, 16), (10 + 20 * i, 100 if name == "query" else 0, 200)).save(path)
        paths.append(str(path))
    return Split(paths, np.array(ids, np.int64), np.zeros(len(ids), np.int64))


def details(ap: list[float], top: list[list[int]]) -> Details:
    return Details(np.array(ap), np.ones(len(ap), np.int64), np.array(top))


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Split, Split]:
    return split_of(tmp_path, "query", [7, 9, 7]), split_of(tmp_path, "gallery", [9, 7, 0, 7])


TOP = [[1, 0, 3], [0, 2, -1], [2, 0, 1]]


def cell(row: int, column: int) -> tuple[int, int]:
    """Return left and top of a cell's frame; column 0 is the query, two more gaps away."""
    left = GAP
    for c in range(column):
        left += WIDTH + GAP + (2 * GAP if c == 0 else 0)
    top = GAP
    for _ in range(row):
        top += HEAD + HEIGHT + GAP
    return left, top + HEAD


def frame_and_picture(sheet: Image.Image, row: int, column: int) -> tuple[object, object]:
    left, top = cell(row, column)
    corners = {
        sheet.getpixel((x, y)) for x in (left, left + WIDTH - 1) for y in (top, top + HEIGHT - 1)
    } | {sheet.getpixel((left + FRAME - 1, top + HEIGHT // 2))}
    inside = {
        sheet.getpixel((x, y))
        for x in (left + FRAME, left + WIDTH - 1 - FRAME)
        for y in (top + FRAME, top + HEIGHT - 1 - FRAME)
    }
    assert len(corners) == len(inside) == 1, "a frame or a picture has more than one colour"
    return corners.pop(), inside.pop()


def test_every_picture_has_its_cell_and_frame(sides: tuple[Split, Split]) -> None:
    query, gallery = sides
    sheet = ranked_list(query, gallery, details([0.9, 0.5, 0.1], TOP), [0, 1, 2], size=(HEIGHT, WIDTH))
    white = (255, 255, 255)
    for row in range(3):
        assert frame_and_picture(sheet, row, 0) == (QUERY, (10 + 20 * row, 100, 200))
        for rank, found in enumerate(TOP[row]):
            if found < 0:
                assert frame_and_picture(sheet, row, rank + 1) == (white, white)
                continue
            same = gallery.ids[found] == query.ids[row]
            assert frame_and_picture(sheet, row, rank + 1) == (RIGHT if same else WRONG, (10 + 20 * found, 0, 200))
    assert sheet.size == (4 * (WIDTH + GAP) + 3 * GAP, 3 * (HEAD + HEIGHT + GAP) + GAP)


def test_marks_tell_right_from_wrong_without_colour(sides: tuple[Split, Split]) -> None:
    sheet = ranked_list(*sides, details([0.9, 0.5, 0.1], TOP), [0], size=(HEIGHT, WIDTH)).convert("L")
    marks = []
    for column in (1, 2, 3):
        left, top = cell(0, column)
        area = np.asarray(sheet)[top - HEAD + 4 : top - 2, left + WIDTH - 12 : left + WIDTH - 2]
        marks.append(tuple(map(tuple, area < 250)))
    right = [True, False, True]  # by TOP: gallery images 1, 0, 3 for the query of person 7
    assert marks[0] == marks[2] != marks[1] and right == [True, False, True]
    assert any(map(any, marks[0])) and any(map(any, marks[1]))


def test_given_queries_are_shown_in_order(sides: tuple[Split, Split]) -> None:
    sheet = ranked_list(*sides, details([0.9, 0.5, 0.1], TOP), [2, 0], size=(HEIGHT, WIDTH))
    assert [frame_and_picture(sheet, row, 0)[1] for row in range(2)] == [(50, 100, 200), (10, 100, 200)]


def test_queries_from_the_best_to_the_worst() -> None:
    ap = [0.3, np.nan, 1.0, 0.5, 0.0, np.nan, 0.8, 0.6, 0.9]
    # by AP: 2, 8, 6, 7, 3, 0, 4; always both ends, and the others at even steps between them
    assert pick_queries(details(ap, [[0]] * 9), 7) == [2, 8, 6, 7, 3, 0, 4]
    assert pick_queries(details(ap, [[0]] * 9), 3) == [2, 7, 4]
    assert pick_queries(details(ap, [[0]] * 9), 4) == [2, 6, 3, 4]
    assert pick_queries(details(ap, [[0]] * 9), 50) == [2, 8, 6, 7, 3, 0, 4]
    assert pick_queries(details([0.5, 0.5, 0.5], [[0]] * 3), 2) == [0, 2]
    assert pick_queries(details([np.nan], [[0]]), 3) == []


def test_picture_shows_picked_queries_by_default(sides: tuple[Split, Split]) -> None:
    sheet = ranked_list(*sides, details([0.1, np.nan, 0.9], TOP), rows=2, size=(HEIGHT, WIDTH))
    assert [frame_and_picture(sheet, row, 0)[1] for row in range(2)] == [(50, 100, 200), (10, 100, 200)]


# ---- the colour control


def test_colours_alone_do_not_solve_the_domain(domains_root: Path) -> None:
    data = {
        "domains": {"target": tiny_domain(domains_root)}, "image_size": list(IMAGE_SIZE), "interpolation": "bilinear",
        "workers": 0, "cache_gb": 1.0,
    }  # fmt: skip
    control = colour_control(data, "target")
    assert set(control) == {"mAP", "rank-1"}
    assert 0.0 < control["mAP"] < 1.0 and 0.0 <= control["rank-1"] <= 1.0


def test_histogram_by_hand() -> None:
    picture = np.zeros((4, 2, 3), np.uint8)
    picture[2:] = (255, 0, 128)
    whole, striped = colour_histogram([picture], bins=2)[0], colour_histogram([picture], bins=2, stripes=2)[0]
    expected = np.zeros(8)
    expected[[0b000, 0b101]] = np.sqrt(0.5)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    assert striped.shape == (16,) and np.flatnonzero(striped).tolist() == [0, 8 + 0b101]


def test_colours_find_people_who_differ_in_colour(tmp_path: Path) -> None:
    rows = ["path,pid,camid,split"]
    for pid, colour in enumerate([(200, 30, 30), (30, 200, 30), (30, 30, 200)]):
        for split, camera in (("train", 0), ("query", 0), ("gallery", 1)):
            name = f"{split}{pid}.png"
            Image.new("RGB", (8, 16), colour).save(tmp_path / name)
            rows.append(f"{name},{pid},{camera},{split}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    data = {
        "domains": {"flat": {"type": "CSV", "path": str(tmp_path / "table.csv")}}, "image_size": [16, 8],
        "interpolation": "bilinear", "workers": 0, "cache_gb": 0.1,
    }  # fmt: skip
    assert colour_control(data, "flat") == {"mAP": 1.0, "rank-1": 1.0}
