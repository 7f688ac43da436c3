"""Pictures of a data set: cells of the contact sheet, counts of the map, sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidx.cli.main import main
from reidx.data.datasets import Market1501, Split
from reidx.doctor.pictures import (
    CELL,
    HEADER,
    LEFT,
    MARGIN,
    MARKED,
    camera_map,
    contact_sheet,
    size_histogram,
)
from reidx.testing.miniatures import MINIATURES
from reidx.testing.miniatures.base import draw

BY_NAME = {miniature.name: miniature for miniature in MINIATURES}


@pytest.fixture
def data(tmp_path: Path) -> Market1501:
    BY_NAME["Market-1501"].at(tmp_path)
    return Market1501(str(tmp_path))


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    height, width = CELL
    left, top = LEFT + column * (width + MARGIN), HEADER + row * (height + MARGIN)
    return np.asarray(sheet.crop((left, top, left + width, top + height)))


def test_sheet_has_a_cell_for_person_and_camera(data):
    sheet = contact_sheet(data.train, data.camera_number, 3)
    assert sheet.size == (LEFT + 3 * (CELL[1] + MARGIN), HEADER + 3 * (CELL[0] + MARGIN))
    for row, person in enumerate((1, 2, 4)):  # evenly spaced among 1 to 4
        for column, camera in enumerate((0, 1, 5)):
            place = np.flatnonzero((data.train.ids == person) & (data.train.cameras == camera))[0]
            image = Image.open(data.train.paths[place]).convert("RGB")
            expected = np.asarray(image.resize(CELL[::-1], Image.Resampling.BICUBIC))
            assert np.array_equal(cell(sheet, row, column), expected)


def test_unseen_pair_is_white_and_damaged_image_red(data):
    lost, damaged = (next(p for p in data.train.paths if f"0001_c{c}s1_000000" in p) for c in (1, 2))
    kept = [path for path in data.train.paths if "0001_c1" not in path]
    chosen = np.isin(data.train.paths, kept)
    Path(damaged).write_bytes(b"")
    split = Split(kept, data.train.ids[chosen], data.train.cameras[chosen])
    sheet = contact_sheet(split, data.camera_number, 4)
    assert lost not in kept and (cell(sheet, 0, 0) == 255).all()
    assert (cell(sheet, 0, 1) == (200, 0, 0)).all()


def test_sheet_without_labels_has_consecutive_images(tmp_path):
    for number in range(20):
        draw(tmp_path / f"{number:02}.png", number)
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    sheet = contact_sheet(Split(paths, None, np.full(20, -1)), int, 2)
    assert sheet.size == (LEFT + 8 * (CELL[1] + MARGIN), HEADER + 2 * (CELL[0] + MARGIN))
    last = np.asarray(Image.open(paths[19]).resize(CELL[::-1], Image.Resampling.BICUBIC))
    assert np.array_equal(cell(sheet, 1, 7), last)


def test_map_counts_images(data):
    figure = camera_map(data.gallery, data.camera_number)
    (image,) = figure.axes[0].get_images()
    assert image.get_array().tolist() == [[1, 0, 0], *[[2, 2, 2]] * 4]  # the background, then people 5 to 8
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "6"]


def test_map_without_identities_is_left_out(data):
    assert camera_map(data.train.unlabelled(), data.camera_number) is None


def test_sizes_are_those_of_decodable_images(data):
    Path(data.query.paths[0]).write_bytes(b"")
    figure = size_histogram(data.query)
    assert figure.axes[0].get_title() == "2 of 3 images"


def test_command_writes_a_folder_for_each_split(data, tmp_path, capsys):
    assert main(["data", "show", data.root, "--out", str(tmp_path / "out"), "--identities", "2"]) == 0
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert names == {f"{s}/{n}.png" for s in ("train", "query", "gallery") for n in ("sheet", "cameras", "sizes")}
    assert len(capsys.readouterr().out.splitlines()) == 9


def test_config_has_a_folder_for_each_domain(data, tmp_path):
    config = tmp_path / "two.yaml"
    spec = f"{{type: Market1501, root: {data.root}}}"
    config.write_text(f"data: {{domains: {{one: {spec}, two: {spec}}}}}\n")
    assert main(["data", "show", str(config), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "two" / "query" / "sheet.png").is_file()


def test_refused_file_points_to_the_doctor(data, tmp_path, capsys):
    draw(Path(data.root) / "query" / "person.jpg", 1)
    assert main(["data", "show", data.root, "--out", str(tmp_path / "out")]) == 1
    assert f"`reidx data doctor {data.root}` lists all faults." in capsys.readouterr().err


def test_labels_of_many_cameras_do_not_overlap():
    split = Split(["none.jpg"] * 300, np.arange(300) // 2, np.arange(300) % 174)
    axes = camera_map(split, lambda camera: f"street {camera}").axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert len(names) == len(axes.get_yticks()) == MARKED and names[0] == "street 0" and names[-1] == "street 173"
