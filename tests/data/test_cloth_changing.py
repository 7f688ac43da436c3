"""LTCC and PRCC: file grammars, numbers of clothes, and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from reidx.data.datasets import LTCC, PRCC
from reidx.errors import DataError

LTCC_NAMES = {
    "train": ["000_1_c1_000001.png", "000_2_c12_000002.png", "003_1_c3_000003.png"],
    "query": ["001_2_c9_015833.png", "002_1_c1_000004.png"],
    "test": ["001_1_c1_000005.png", "001_2_c4_000006.png", "002_1_c2_000007.png", "010_4_c2_000008.png"],
}
PRCC_NAMES = {
    "train/001": ["A_cropped_rgb001.jpg", "B_cropped_rgb002.jpg", "C_cropped_rgb003.jpg"],
    "train/012": ["A_cropped_rgb001.jpg"],
    "val/001": ["A_cropped_rgb009.jpg"],
    "test/A/002": ["cropped_rgb001.jpg", "cropped_rgb002.jpg"],
    "test/A/030": ["cropped_rgb001.jpg"],
    "test/B/002": ["cropped_rgb001.jpg"],
    "test/C/002": ["cropped_rgb001.jpg"],
    "test/C/030": ["cropped_rgb001.jpg"],
}


def write_ltcc(base: Path, **folders: list[str]) -> Path:
    for folder, names in {**LTCC_NAMES, **folders}.items():
        (base / folder).mkdir(parents=True)
        for name in names:
            (base / folder / name).touch()
    return base


def write_prcc(base: Path, more: dict[str, list[str]] | None = None) -> Path:
    for folder, names in {**PRCC_NAMES, **(more or {})}.items():
        (base / "rgb" / folder).mkdir(parents=True)
        for name in names:
            (base / "rgb" / folder / name).touch()
    return base


def worn(data) -> dict[tuple[int, str], set[int]]:
    """Numbers of clothes by person and the part of the path that names the outfit."""
    found: dict[tuple[int, str], set[int]] = {}
    for split in (data.train, data.query, data.gallery):
        for path, person, number in zip(split.paths, split.ids.tolist(), split.columns["clothes"].tolist(), strict=True):
            name = Path(path)
            outfit = name.name.split("_")[1] if name.suffix == ".png" else str("C" in (name.name[0], name.parent.parent.name))
            found.setdefault((person, outfit), set()).add(number)
    return found


@pytest.mark.parametrize("place", [".", "LTCC_ReID", "ltcc", "LTCC/LTCC_ReID"])
def test_ltcc_is_found_in_its_customary_layouts(tmp_path, place):
    root = tmp_path / "099_9_c9"  # a folder's name is not read
    base = write_ltcc(root / place)
    data = LTCC(str(root))
    assert Path(data.root) == base
    assert data.train.ids.tolist() == [0, 0, 3] and data.train.cameras.tolist() == [0, 11, 2]
    assert data.query.ids.tolist() == [1, 2] and data.query.cameras.tolist() == [8, 0]
    assert data.gallery.ids.tolist() == [1, 1, 2, 10] and data.distractors == 1


def test_clothes_of_two_people_never_share_a_number(tmp_path):
    for data in (LTCC(str(write_ltcc(tmp_path / "l"))), PRCC(str(write_prcc(tmp_path / "p")))):
        numbers = worn(data)
        assert all(len(found) == 1 for found in numbers.values())
        assert [numbers[outfit] for outfit in sorted(numbers)] == [{place} for place in range(len(numbers))]


def test_ltcc_clothes_agree_between_query_and_gallery(tmp_path):
    data = LTCC(str(write_ltcc(tmp_path)))
    assert data.train.columns["clothes"].tolist() == [0, 1, 5]
    assert data.query.columns["clothes"].tolist() == [3, 4]
    assert data.gallery.columns["clothes"].tolist() == [2, 3, 4, 6]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("001_c9_015833.png", r"001_c9_015833\.png: .*such as 094_1_c9_015833\.png"),
        ("001_1_c13_015833.png", "camera 13 is out of range"),
    ],
)
def test_wrong_ltcc_name_shows_the_expected(tmp_path, name, message):
    write_ltcc(tmp_path, query=[name])
    with pytest.raises(DataError, match=message):
        LTCC(str(tmp_path))


@pytest.mark.parametrize("place", [".", "prcc", "PRCC"])
def test_prcc_gallery_is_camera_a(tmp_path, place):
    base = write_prcc(tmp_path / place)
    data = PRCC(str(tmp_path))
    assert Path(data.root) == base
    assert data.train.ids.tolist() == [1, 1, 1, 12] and data.train.cameras.tolist() == [0, 1, 2, 0]
    assert data.gallery.ids.tolist() == [2, 2, 30] and set(data.gallery.cameras.tolist()) == {0}
    assert data.query.ids.tolist() == [2, 2, 30] and data.query.cameras.tolist() == [1, 2, 2]
    assert not any("val" in Path(path).parts for path in data.train.paths)
    assert [data.camera_number(camera) for camera in range(3)] == [1, 2, 3]


def test_prcc_camera_c_saw_other_clothes(tmp_path):
    data = PRCC(str(write_prcc(tmp_path)))
    assert data.train.columns["clothes"].tolist() == [0, 0, 1, 4]
    assert data.gallery.columns["clothes"].tolist() == [2, 2, 5]
    assert data.query.columns["clothes"].tolist() == [2, 3, 6]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train/001": ["cropped_rgb001.jpg"]}, r"the name of a training image begins with its camera, A, B or C"),
        ({"train/people": ["A_1.jpg"]}, r"people: the folder of a person is named by its number"),
        ({"test/B/002": []}, r"PRCC: .*rgb/test/B has no image of a person"),
    ],
)
def test_wrong_prcc_folder_is_named(tmp_path, more, message):
    write_prcc(tmp_path, more)
    with pytest.raises(DataError, match=message):
        PRCC(str(tmp_path))


@pytest.mark.parametrize(("dataset", "parts"), [(LTCC, "train, query, test"), (PRCC, "rgb/train, rgb/test/A")])
def test_missing_folder_names_parts_and_request(tmp_path, dataset, parts):
    with pytest.raises(DataError) as error:
        dataset(str(tmp_path / "nowhere"))
    assert parts in str(error.value) and "request this one at https://" in str(error.value)
