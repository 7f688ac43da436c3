"""CUHK03: partitions, boxes, moved folders, re-packed copies, and error messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reidx.data.datasets import CUHK03
from reidx.errors import ConfigError, DataError
from reidx.evaluation.matches import has_match
from reidx.evaluation.protocols import Market1501
from reidx.registry.build import build
from reidx.testing.miniatures import cuhk03


@pytest.fixture
def base(tmp_path: Path) -> Path:
    cuhk03.write(tmp_path)
    return tmp_path / "cuhk03"


def write_repacked(base: Path) -> Path:
    names = {"bounding_box_train": "0001_c1_1.png", "query": "0002_c1_1.png", "bounding_box_test": "0002_c2_1.png"}
    for folder, name in names.items():
        (base / folder).mkdir(parents=True)
        (base / folder / name).touch()
    return base


@pytest.mark.parametrize("boxes", cuhk03.BOXES)
def test_new_partition_has_its_people(base, boxes):
    data = CUHK03(str(base), boxes)
    tested = {1000 * pair + person for pair, person in cuhk03.TESTED}
    assert set(data.query.ids.tolist()) == set(data.gallery.ids.tolist()) == tested
    assert set(data.train.ids.tolist()) == {1000 * pair + person for pair, person in cuhk03.PEOPLE} - tested
    assert {Path(path).parent for path in data.train.paths} == {base / f"images_{boxes}"}
    assert not set(data.query.paths) & set(data.gallery.paths)
    assert data.card()["version"] == f"{boxes} boxes, new partition" and data.variant in CUHK03.facts.counts


def test_views_are_the_cameras(base):
    data = CUHK03(str(base))
    for split in (data.train, data.query, data.gallery):
        assert [int(Path(path).name.split("_")[2]) - 1 for path in split.paths] == split.cameras.tolist()
    known = data.query.ids, data.gallery.ids, data.query.cameras, data.gallery.cameras
    assert has_match(Market1501(), known).all()


@pytest.mark.parametrize(("split", "people"), [(0, {1001, 1002}), (1, {1002, 1003})])
def test_classic_split_chooses_the_test_people(base, split, people):
    data = CUHK03(str(base), "labeled", "classic", split)
    assert data.query.paths == data.gallery.paths and set(data.query.ids.tolist()) == people
    assert not people & set(data.train.ids.tolist())
    assert data.card()["version"] == f"labeled boxes, classic partition, split {split}"


@pytest.mark.parametrize("place", [".", "cuhk03", "CUHK03"])
def test_moved_folder_needs_no_new_splits(base, tmp_path, place):
    moved = tmp_path / "1_001_1_01" / place  # a folder's name is not read
    moved.parent.mkdir(exist_ok=True)
    base.rename(moved if place != "." else tmp_path / "1_001_1_01")
    data = CUHK03(str(tmp_path / "1_001_1_01"))
    assert all(Path(path).is_file() for split in (data.train, data.query, data.gallery) for path in split.paths)


def test_paths_of_windows_are_read(base):
    table = base / "splits_new_detected.json"
    table.write_text(table.read_text().replace("/", "\\\\"), encoding="utf-8")
    assert len(CUHK03(str(base)).train) == 12


@pytest.mark.parametrize("place", ["detected", "cuhk03-np/detected", "CUHK03-NP/detected", "CUHK03"])
def test_repacked_copy_has_the_new_partition(tmp_path, place):
    write_repacked(tmp_path / place)
    data = CUHK03(str(tmp_path))
    assert data.query.ids.tolist() == [2] and data.gallery.cameras.tolist() == [1]
    assert (data.layout, data.variant) == ("re-packed folders, boxes as stated", "new, detected")
    with pytest.raises(DataError, match=r"Looked for the folders images_detected, splits_classic_detected\.json in"):
        CUHK03(str(tmp_path), partition="classic")


def test_folder_of_other_boxes_is_refused(tmp_path):
    base = write_repacked(tmp_path / "cuhk03-np" / "labeled")
    for root in (base, tmp_path):
        with pytest.raises(DataError, match="has labeled boxes by its name, but images is detected"):
            CUHK03(str(root))
    write_repacked(tmp_path / "cuhk03-np" / "detected")
    for boxes in cuhk03.BOXES:
        assert CUHK03(str(tmp_path), boxes).root == str(base.parent / boxes)


@pytest.mark.parametrize("place", [".", "cuhk03_release", "cuhk03/cuhk03_release"])
def test_archive_alone_tells_the_way_to_extract(tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "cuhk-03.mat").touch()
    with pytest.raises(DataError, match=r"cuhk-03\.mat is not extracted: .*\.ImageDataManager\(root=FOLDER, sources='cuhk03"):
        CUHK03(str(tmp_path))


def test_missing_cuhk03_lists_both_layouts(tmp_path):
    with pytest.raises(DataError) as error:
        CUHK03(str(tmp_path / "nowhere"))
    for text in ("images_detected, splits_new_detected.json", "bounding_box_train", "cuhk03-np/detected", "request this"):
        assert text in str(error.value)


def test_missing_and_unlisted_images_are_named(base):
    (base / "images_detected" / "1_001_1_02.png").rename(base / "images_detected" / "1_009_1_02.png")
    with pytest.raises(DataError, match=r"splits_new_detected\.json, split 0 lists 1_001_1_02\.png, which is not in .*images"):
        CUHK03(str(base))
    (base / "images_detected" / "1_001_1_02.png").touch()
    data = CUHK03(str(base))
    assert data.dropped == {"passed over": 1} and "1 images that are not in split 0" in data.remarks[0]


def test_split_needs_the_classic_partition(base):
    spec = {"type": "CUHK03", "root": str(base), "split": 1}
    with pytest.raises(ConfigError, match="split is 1, but the new partition has one split"):
        build("dataset", spec)
    with pytest.raises(DataError, match=r"splits_classic_detected\.json has splits 0 to 1, but split is 2"):
        build("dataset", {**spec, "partition": "classic", "split": 2})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("no json", r"splits_new_detected\.json cannot be read as the splits of CUHK03"),
        ("[" * 100_000, r"splits_new_detected\.json cannot be read as the splits of CUHK03"),
        ('[{"train": []}]', r"splits_new_detected\.json cannot be read as the splits of CUHK03"),
        ('[{"train": [["/x/0001_c1.png", 0, 0]], "query": [], "gallery": []}]', r"0001_c1\.png: .* looks like 1_001_1_01"),
        ('[{"train": [], "query": [], "gallery": []}]', r"split 0 has no train image"),
    ],
)
def test_wrong_splits_are_named(base, splits, message):
    (base / "splits_new_detected.json").write_text(splits, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        CUHK03(str(base))


def test_splits_name_every_image_once(base):
    """The miniature has the form of the published splits: no image is in two parts of the new partition."""
    (split,) = json.loads((base / "splits_new_labeled.json").read_text())
    names = [entry[0] for part in ("train", "query", "gallery") for entry in split[part]]
    assert len(names) == len(set(names)) == len(cuhk03.PEOPLE) * len(cuhk03.IMAGES)
