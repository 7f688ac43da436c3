"""MSMT17: two versions, two layouts, lists, and error messages."""

from pathlib import Path

import pytest

from reidx.data.datasets import MSMT17, msmt17
from reidx.data.datasets.lists import read_list
from reidx.errors import DataError
from reidx.evaluation.matches import has_match
from reidx.evaluation.protocols import Market1501

FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
LISTS = {
    "train": [
        "0000/0000_045_12_0303morning_0006_2.jpg 0",
        "0001/0001_000_15_0303noon_0001_0_ex.jpg 1",
        "0000/0000_010_07_0303morning_0008_2.jpg 0",
    ],
    "val": ["0000/0000_013_04_0303morning_0020_2.jpg 0"],
    "query": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_02_0303morning_0015_0.jpg 1"],
    "gallery": ["0000/0000_008_03_0303morning_0019_2.jpg 0", "0001/0001_001_05_0303morning_0015_0.jpg 1"],
}


def write_published(base: Path, version: str = "V1", **lists: list[str]) -> Path:
    learnt, tested = FOLDERS[version]
    base.mkdir(parents=True, exist_ok=True)
    for part, lines in {**LISTS, **lists}.items():
        (base / f"list_{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        folder = base / (learnt if part in ("train", "val") else tested)
        folder.mkdir(exist_ok=True)
        for line in LISTS[part]:
            image = folder / line.split()[0]
            image.parent.mkdir(exist_ok=True)
            image.touch()
    return base


def write_repacked(base: Path, train: tuple[str, ...] = ("0000_c12_0045.jpg", "0001_c15_0000.jpg")) -> Path:
    names = {
        "bounding_box_train": train,
        "query": ("0000_c01_0000.jpg",),
        "bounding_box_test": ("0000_c03_0008.jpg",),
    }
    for folder, images in names.items():
        (base / folder).mkdir(parents=True)
        for name in images:
            (base / folder / name).touch()
    return base


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("place", [".", "MSMT17_{}", "MSMT17", "msmt17", "msmt17/MSMT17_{}"])
def test_published_layout_reveals_its_version(tmp_path, version, place):
    root = tmp_path / "my_1_2_cluster"  # a folder name with fields like those of a file name
    base = write_published(root / place.format(version), version)
    for asked in ("auto", version):
        data = MSMT17(str(root), version=asked)
        assert (data.version, Path(data.root)) == (version, base)
        assert {Path(path).relative_to(base).parts[0] for path in data.train.paths} == {FOLDERS[version][0]}
        assert {Path(path).relative_to(base).parts[0] for path in data.query.paths} == {FOLDERS[version][1]}


def test_ids_and_cameras_come_from_the_lists(tmp_path):
    data = MSMT17(str(write_published(tmp_path)))
    assert [Path(path).name for path in data.train.paths] == [
        line.split()[0].split("/")[1] for line in LISTS["train"] + LISTS["val"]
    ]
    assert data.train.ids.tolist() == [0, 1, 0, 0]
    assert data.train.cameras.tolist() == [11, 14, 6, 3]
    assert data.query.cameras.tolist() == [0, 1]
    assert all(Path(path).is_file() for path in data.train.paths + data.query.paths + data.gallery.paths)


def test_ids_come_from_lists_not_from_names(tmp_path):
    """The second column has its own numbering, which may differ from the names."""
    changed = [line[:-1] + "7" for line in LISTS["train"]]
    assert MSMT17(str(write_published(tmp_path, train=changed))).train.ids.tolist() == [7, 7, 7, 0]


def test_id_0_is_a_person_everywhere(tmp_path):
    data = MSMT17(str(write_published(tmp_path)))
    assert 0 in data.train.ids
    assert 0 in data.query.ids
    assert data.distractors == 0
    only = data.query.ids == 0
    known = data.query.ids[only], data.gallery.ids, data.query.cameras[only], data.gallery.cameras
    assert has_match(Market1501(), known).any()
    assert not set(data.train.paths) & set(data.query.paths + data.gallery.paths)
    packed = MSMT17(str(write_repacked(tmp_path / "packed")), version="V1")
    assert packed.train.ids.tolist() == [0, 1] and packed.query.ids.tolist() == [0]
    assert packed.dropped == {"junk": 0, "background": 0} and packed.distractors == 0


def test_training_uses_both_lists_by_default(tmp_path):
    root = str(write_published(tmp_path))
    both, one = MSMT17(root), MSMT17(root, train="train")
    assert (len(both.train), len(one.train)) == (4, 3)
    assert both.card() == {
        "name": "MSMT17",
        "version": "V1",
        "train": {"images": 4, "ids": 2, "cameras": 4},
        "query": {"images": 2, "ids": 2, "cameras": 2},
        "gallery": {"images": 2, "ids": 2, "cameras": 2},
        "dropped": {},
        "distractors": 0,
        "layout": "published lists",
        "train_lists": "list_train + list_val",
    }
    assert one.card()["train_lists"] == "list_train"


def test_repacked_copy_has_the_stated_version(tmp_path):
    base = write_repacked(tmp_path / "msmt17" / "MSMT17_V1")
    for version in ("V1", "V2"):  # the folder's name is no evidence: copies of both versions have it
        data = MSMT17(str(tmp_path), version=version)
        assert (data.root, data.version) == (str(base), version)
        assert data.train.cameras.tolist() == [11, 14]
        card = data.card()
        assert (card["version"], card["train_lists"]) == (version, "bounding_box_train")
        assert card["layout"] == "re-packed folders, version as stated"


def test_repacked_copy_needs_a_stated_version(tmp_path):
    root = str(write_repacked(tmp_path))
    with pytest.raises(DataError, match=r"re-packed: its folders do not reveal its version\. State the version"):
        MSMT17(root)
    with pytest.raises(DataError, match=r"do not separate the images of list_val .* Set train: trainval"):
        MSMT17(root, version="V1", train="train")


@pytest.mark.parametrize(("there", "asked"), [("V1", "V2"), ("V2", "V1")])
def test_other_version_is_refused_despite_repacked_copy(tmp_path, there, asked):
    root = write_published(tmp_path / "MSMT17_V2", there)  # its folders decide, not its name
    with pytest.raises(DataError) as error:
        MSMT17(str(tmp_path), version=asked)
    message = str(error.value)
    assert f"{root} is {there} (its folders are {' and '.join(FOLDERS[there])})" in message
    assert f"version is {asked}. Set version: {there}" in message and "not comparable" in message
    write_repacked(tmp_path / "msmt17")
    with pytest.raises(DataError, match=f"is {there} .* but version is {asked}"):
        MSMT17(str(tmp_path), version=asked)
    assert MSMT17(str(tmp_path)).layout == "published lists"


def test_auto_refuses_to_choose_between_two_versions(tmp_path):
    first, second = (write_published(tmp_path / f"MSMT17_{v}", v) for v in ("V1", "V2"))
    assert MSMT17(str(tmp_path), version="V1").root == str(first)
    assert MSMT17(str(tmp_path), version="V2").root == str(second)
    with pytest.raises(DataError, match=r"V1 at .*MSMT17_V1 and V2 at .*MSMT17_V2\. Set version: V1"):
        MSMT17(str(tmp_path))


@pytest.mark.parametrize("lost", ["list_val.txt", "list_gallery.txt"])
def test_a_missing_list_is_named(tmp_path, lost):
    base = write_published(tmp_path / "MSMT17_V2", "V2")
    (base / lost).unlink()
    with pytest.raises(DataError, match=rf"MSMT17_V2 is incomplete: it lacks {lost}\."):
        MSMT17(str(tmp_path))


def test_missing_msmt17_lists_the_searched_layouts(tmp_path):
    with pytest.raises(DataError) as error:
        MSMT17(str(tmp_path / "nowhere"))
    message = str(error.value)
    assert "train, test, list_train.txt" in message and "mask_train_v2" in message
    assert "bounding_box_train, query, bounding_box_test" in message
    assert str(tmp_path / "nowhere" / "msmt17" / "MSMT17_V1") in message


GOOD = LISTS["train"][0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "0000/0000_045_12.jpg"], r"list_train\.txt, line 2: .* does not give an image and its identity"),
        ([GOOD, "", GOOD.replace(" 0", "")], r"list_train\.txt, line 3: .* does not give"),
        ([GOOD.replace(" 0", " -1")], r"line 1: .* does not give"),
        ([GOOD.replace("_12_", "_x_")], r"line 1: .* does not give"),
        ([GOOD.replace("_12_", "_16_")], r"line 1: camera 16 is out of range; MSMT17 has cameras 1 to 15"),
        ([GOOD.replace("_12_", "_00_")], r"line 1: camera 0 is out of range"),
        ([GOOD, GOOD.replace("_12_", "_11_")], r"line 2: there is no file .*0000_045_11_0303morning_0006_2"),
        ([""], r"list_train\.txt lists no images"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, lines, message):
    write_published(tmp_path, train=lines)
    with pytest.raises(DataError, match=message):
        MSMT17(str(tmp_path))


def test_an_unreadable_list_is_named(tmp_path):
    (write_published(tmp_path) / "list_query.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"list_query\.txt cannot be read as a list"):
        MSMT17(str(tmp_path))


def test_lists_of_any_system_are_equal(tmp_path):
    """A byte-order mark, carriage returns or a missing final newline cost no character of a line."""
    expected = MSMT17(str(write_published(tmp_path)))
    text = "\ufeff" + "\r\n".join(LISTS["query"])
    (tmp_path / "list_query.txt").write_bytes(text.encode())
    data = MSMT17(str(tmp_path))
    assert data.query.paths == expected.query.paths and data.query.ids.tolist() == [0, 1]


def test_repacked_camera_beyond_15_is_named(tmp_path):
    write_repacked(tmp_path, train=("0000_c16_0000.jpg",))
    with pytest.raises(DataError, match=r"0000_c16_0000\.jpg: camera 16 is out of range"):
        MSMT17(str(tmp_path), version="V1")


def test_the_published_lists_have_their_published_counts():
    root = Path(__file__).resolve().parents[2] / "data"
    if not any((root / place / "list_val.txt").is_file() for place in MSMT17.places):
        pytest.skip("data/MSMT17_V1 or V2 is not here")
    card = MSMT17(str(root)).card()
    assert card["train"] == {"images": 32_621, "ids": 1_041, "cameras": 15}
    assert card["query"] == {"images": 11_659, "ids": 3_060, "cameras": 15}
    assert card["gallery"] == {"images": 82_161, "ids": 3_060, "cameras": 15}


@pytest.mark.parametrize(
    ("parts", "images", "ids"),
    [
        (("train",), 30_248, 1_041),
        (("train", "val"), 32_621, 1_041),
        (("query",), 11_659, 3_060),
        (("gallery",), 82_161, 3_060),
    ],
)
def test_shared_lists_parse_to_their_counts(parts, images, ids):
    folder = Path(__file__).resolve().parents[3] / "shared" / "lists" / "msmt17"
    tables = [folder / f"list_{part}.txt" for part in parts]
    if not all(table.is_file() for table in tables):
        pytest.skip(f"{folder} is not here")
    lines = [line for table in tables for _, line in read_list(table, msmt17.LINE, "")]
    assert (len({line[1] for line in lines}), len({line[3] for line in lines})) == (images, ids)
    assert len(lines) == images and {int(line[2]) for line in lines} == set(msmt17.CAMERAS)
