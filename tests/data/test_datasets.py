"""Data sets: file grammars, dropped and kept images, and error messages."""

from pathlib import Path

import numpy as np
import pytest

from reidx.data.datasets import CSV, Market1501, MarketGrammar, Split
from reidx.errors import DataError

TRAIN = ["0007_c2s1_000001_01.jpg", "0002_c1s1_000451_03.jpg", "0002_c6s1_000451_03.jpg", "Thumbs.db"]
QUERY = ["0003_c1s1_000001_00.jpg"]
GALLERY = ["0003_c3s1_000001_00.jpg", "-1_c1s1_000001_00.jpg", "0000_c4s1_000001_00.jpg", "._0003_c3s1.jpg"]


def write_market(base: Path, train=TRAIN, query=QUERY, gallery=GALLERY) -> Path:
    for folder, names in (("bounding_box_train", train), ("query", query), ("bounding_box_test", gallery)):
        (base / folder).mkdir(parents=True)
        for name in names:
            (base / folder / name).touch()  # a data set reads names only
    return base


@pytest.mark.parametrize(
    "place", [".", "market1501", "Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15"]
)
def test_market_is_found_in_every_customary_layout(tmp_path, place):
    root = tmp_path / "2024_c3" / "my_cluster"  # folder names that look like a name's id and camera
    write_market(root / place)
    data = Market1501(str(root))
    assert [Path(path).name for path in data.train.paths] == sorted(TRAIN[:3])
    assert data.train.ids.tolist() == [2, 2, 7]
    assert data.train.cameras.tolist() == [0, 5, 1]
    assert data.train.classes().tolist() == [0, 0, 1]
    assert data.query.ids.tolist() == [3]
    assert data.gallery.ids.tolist() == [0, 3]
    assert data.gallery.cameras.tolist() == [3, 2]
    assert all(Path(path).is_file() for path in data.train.paths + data.query.paths + data.gallery.paths)


def test_market_card_counts_images(tmp_path):
    data = Market1501(
        str(write_market(tmp_path, train=[*TRAIN, "-1_c1s1_000000_00.jpg", "0000_c1s1_000000_00.jpg"]))
    )
    assert data.card() == {
        "name": "Market-1501",
        "version": "v15.09.15",
        "train": {"images": 3, "ids": 2, "cameras": 3},
        "query": {"images": 1, "ids": 1, "cameras": 1},
        "gallery": {"images": 2, "ids": 2, "cameras": 2},
        "dropped": {"junk": 2, "background": 1},
        "distractors": 1,
    }


@pytest.mark.parametrize("folder", ["images", "distractors_500k", "distractors_500k/images"])
def test_distractors_join_the_gallery_as_background(tmp_path, folder):
    base = write_market(tmp_path / "market1501")
    (base / folder).mkdir(parents=True)
    for name in ("0000_c1s1_000001_00.jpg", "-1_c6s1_000001_00.jpg", "0003_c2s1_000001_00.jpg", "any.jpg", "Thumbs.db"):
        (base / folder / name).touch()
    plain, data = Market1501(str(tmp_path)), Market1501(str(tmp_path), distractors=True)
    assert data.gallery.paths[:2] == plain.gallery.paths and len(data.gallery) == 6
    assert data.gallery.ids.tolist() == [0, 3, 0, 0, 0, 0]
    added = dict(zip((Path(path).name for path in data.gallery.paths[2:]), data.gallery.cameras[2:].tolist()))
    assert (added["-1_c6s1_000001_00.jpg"], added["0003_c2s1_000001_00.jpg"], added["any.jpg"]) == (5, 1, -1)
    assert (data.card()["added_distractors"], data.card()["distractors"]) == (4, 5)
    assert data.card()["version"] == "v15.09.15 with distractors" and "added_distractors" not in plain.card()
    assert (data.train.paths, data.query.paths) == (plain.train.paths, plain.query.paths)


@pytest.mark.parametrize("empty", [False, True])
def test_absent_distractors_are_named(tmp_path, empty):
    write_market(tmp_path)
    if empty:
        (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"has no distractors; .*distractors_500k.* set distractors: false"):
        Market1501(str(tmp_path), distractors=True)


def test_an_unlabelled_split_has_no_identities(tmp_path):
    split = Market1501(str(write_market(tmp_path))).train
    blind = split.unlabelled()
    assert blind.ids is None
    assert blind.paths == split.paths
    assert blind.cameras is split.cameras
    assert blind.counts() == {"images": 3, "ids": 0, "cameras": 3}
    with pytest.raises(DataError, match="no identities"):
        blind.classes()
    assert split.ids is not None  # the data set itself keeps the identities


def test_split_refuses_wrong_columns():
    with pytest.raises(ValueError, match="ids must be 2 int64"):
        Split(["a", "b"], np.array([1]), np.array([0, 0]))
    with pytest.raises(ValueError, match="cameras must be 1 int64"):
        Split(["a"], np.array([1]), np.array([0.0]))


def test_missing_market_lists_the_searched_folders(tmp_path):
    with pytest.raises(DataError) as error:
        Market1501(str(tmp_path / "nowhere"))
    message = str(error.value)
    assert "bounding_box_train, query, bounding_box_test" in message
    assert str(tmp_path / "nowhere" / "market1501" / "Market-1501-v15.09.15") in message


def test_incomplete_market_names_the_missing_folder(tmp_path):
    write_market(tmp_path / "market1501")
    (tmp_path / "market1501" / "query" / QUERY[0]).unlink()
    (tmp_path / "market1501" / "query").rmdir()
    with pytest.raises(DataError, match=r"market1501 is incomplete: it lacks query\."):
        Market1501(str(tmp_path))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], r"bounding_box_train has no \.jpg image"),
        (["Thumbs.db"], r"bounding_box_train has no \.jpg image"),
        (["-1_c1s1_000000_00.jpg"], "only junk and background"),
        (["0002c1s1.jpg"], r"0002c1s1\.jpg: the name does not give"),
        (["0002_c7s1_000000_00.jpg"], r"0002_c7s1_000000_00\.jpg: camera 7 is out of range"),
        (["0002_c0s1_000000_00.jpg"], "camera 0 is out of range"),
    ],
)
def test_a_wrong_market_folder_is_named(tmp_path, train, message):
    write_market(tmp_path, train=train)
    with pytest.raises(DataError, match=message):
        Market1501(str(tmp_path))


def test_grammar_allows_more_cameras(tmp_path):
    class Rearranged(MarketGrammar):
        name = "Rearranged"

    write_market(tmp_path, train=["0002_c15_0000.jpg"])
    assert Rearranged(str(tmp_path)).train.cameras.tolist() == [14]


def test_the_real_market_has_its_published_counts():
    root = Path(__file__).resolve().parents[2] / "data"
    if not (root / "Market-1501-v15.09.15").is_dir():
        pytest.skip("data/Market-1501-v15.09.15 is not here")
    card = Market1501(str(root)).card()
    assert card["train"] == {"images": 12_936, "ids": 751, "cameras": 6}
    assert card["query"] == {"images": 3_368, "ids": 750, "cameras": 6}
    assert card["gallery"] == {"images": 15_913, "ids": 751, "cameras": 6}
    assert card["dropped"] == {"junk": 19_732 - 15_913, "background": 0}
    assert card["distractors"] == 2_798


# --- CSV


def write_table(folder: Path, *rows: str, header: str = "path,pid,camid,split") -> str:
    for row in rows:
        (folder / row.partition(",")[0].strip()).touch()
    table = folder / "mine.csv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(table)


def test_a_table_is_read_row_by_row(tmp_path):
    table = write_table(
        tmp_path, "b.jpg,0,3,train", "a.png, 12 ,0,train", "q.jpg,1,1,query", "g.jpg,1,2,gallery"
    )
    data = CSV(table)
    assert data.train.paths == [str(tmp_path / "b.jpg"), str(tmp_path / "a.png")]
    assert data.train.ids.tolist() == [0, 12]
    assert data.train.cameras.tolist() == [3, 0]
    assert data.query.ids.tolist() == data.gallery.ids.tolist() == [1]
    assert data.card()["name"] == "mine"
    assert data.card()["distractors"] == 0


def test_columns_in_any_order_among_others(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "t.csv").write_text("\ufeffsplit,note,camid,pid,path\ntrain,hm,4,5,a.jpg\n", encoding="utf-8")
    data = CSV(str(tmp_path / "t.csv"))
    assert (data.train.ids.tolist(), data.train.cameras.tolist()) == ([5], [4])


def test_paths_are_relative_to_the_root(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    table = tmp_path / "t.csv"
    table.write_text("path,pid,camid,split\na.jpg,1,1,train\n")
    assert CSV(str(table), root=str(tmp_path / "images")).train.paths == [str(tmp_path / "images" / "a.jpg")]


def test_table_without_cameras_and_training_identities(tmp_path):
    data = CSV(write_table(tmp_path, "a.jpg,,,train", "q.jpg,1,,query", "g.jpg,1,,gallery"))
    assert data.train.ids is None
    assert data.query.ids is not None
    assert data.gallery.cameras.tolist() == [-1]
    assert data.card()["gallery"]["cameras"] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["a.jpg,1,1,train", "b.jpg,1,1,test"],
            "line 3: split is 'test'; it must be one of train, query, gallery",
        ),
        (["a.jpg,-1,1,train"], "line 2: pid is '-1'"),
        (["a.jpg,1,1.0,train"], "line 2: camid is '1.0'"),
        (["a.jpg,1,1,train", "b.jpg,,1,train"], "line 3: pid is empty, but line 2 has one"),
        (["a.jpg,,1,train", "b.jpg,4,1,train"], "line 2: pid is empty, but line 3 has one"),
        (
            ["a.jpg,1,1,train", "b.jpg,4,,query", "c.jpg,4,,gallery"],
            "line 3: camid is empty, but line 2 has one",
        ),
        (["a.jpg,1,1,query", "b.jpg,,1,gallery"], "line 3: a gallery image needs a pid"),
        (["a.jpg,1,1,query"], "query images but no gallery images"),
        (["a.jpg,1,1,"], "line 2: split is ''"),
        ([], "a first line but no images"),
    ],
)
def test_a_wrong_table_names_its_line(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        CSV(write_table(tmp_path, *rows))


def test_table_names_the_missing_image(tmp_path):
    table = write_table(tmp_path, "a.jpg,1,1,train")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"line 2: there is no file .*a\.jpg"):
        CSV(table)


def test_missing_columns_or_table_are_named(tmp_path):
    with pytest.raises(DataError, match="line 1: no column pid, camid"):
        CSV(write_table(tmp_path, "a.jpg,train", header="path,split"))
    with pytest.raises(DataError, match=r"absent\.csv cannot be read"):
        CSV(str(tmp_path / "absent.csv"))
