"""MARS, VeRi-776's tracks and Market-1501's multi-query: grammars, groups of images, and error messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from reidx.data.datasets import MARS, Market1501, VeRi776
from reidx.errors import DataError
from reidx.testing.miniatures import mars, multi_query, vehicles


@pytest.fixture
def mars_root(tmp_path: Path) -> Path:
    mars.write(tmp_path)
    return tmp_path


def tracks(split) -> list[tuple[int, int, int, list[str]]]:
    """Track, identity, camera and file names of each track of a split, in its order."""
    found: dict[int, tuple[int, int, list[str]]] = {}
    for path, person, camera, track in zip(split.paths, split.ids, split.cameras, split.columns["track"]):
        found.setdefault(int(track), (int(person), int(camera), []))[2].append(Path(path).name)
    return [(track, *row) for track, row in found.items()]


@pytest.mark.parametrize("place", [".", "mars", "MARS"])
def test_mars_is_found_in_its_places(tmp_path, place):
    mars.write(tmp_path / "drawn")
    root = tmp_path / "0001C1T0001F001"  # a folder's name is not read
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "drawn" / "mars").rename(root / place)
    assert Path(MARS(str(root)).root) == root / place


def test_mars_splits_are_the_frames_of_tracklets(mars_root):
    data = MARS(str(mars_root))
    assert tracks(data.query) == [
        (2, 4, 0, ["0004C1T0003F001.jpg", "0004C1T0003F002.jpg", "0004C1T0003F003.jpg"]),
        (5, 5, 0, ["0005C1T0006F001.jpg", "0005C1T0006F002.jpg", "0005C1T0006F003.jpg"]),
    ]
    assert [row[:3] for row in tracks(data.gallery)] == [
        (1, 0, 2), (2, 4, 0), (3, 4, 1), (4, 4, 5), (5, 5, 0), (6, 5, 1), (7, 5, 5)
    ]  # fmt: skip
    assert [row[:3] for row in tracks(data.train)][:3] == [(0, 1, 0), (1, 1, 1), (2, 2, 0)]
    assert data.dropped == {"frames of junk": 2} and data.notes() == ["left out: 2 frames of junk"]
    assert data.card()["tracklets"] == {"train": 6, "query": 2, "gallery": 7}
    assert [data.camera_number(camera) for camera in (0, 5)] == [1, 6]
    assert all(Path(path).is_file() for path in data.gallery.paths)


def test_mars_gallery_without_query_tracklets(mars_root):
    data = MARS(str(mars_root), gallery="rest")
    assert [row[0] for row in tracks(data.gallery)] == [1, 3, 4, 6, 7] and [row[0] for row in tracks(data.query)] == [2, 5]
    assert data.card()["gallery_tracklets"] == "rest"


def edit(path: Path, change) -> None:
    """Change the only table of a MATLAB file."""
    name, table = next((name, table) for name, table in loadmat(path).items() if not name.startswith("__"))
    savemat(path, {name: change(table)})


def put(row: int, column: int, value: float):
    def change(table: np.ndarray) -> np.ndarray:
        table = table.astype(np.float64)
        table[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tracks_test_info.mat", put(2, 2, 5), r"info\.mat, row 3: .* of person 5 and camera 1, but .* 0004C1.*line 5\)"),
        ("tracks_test_info.mat", put(2, 3, 2), r"row 3: .* of person 4 and camera 2, but .* of person 4 and camera 1"),
        ("tracks_test_info.mat", put(0, 2, 0), r"row 1: .* person 0 and camera 4, but its frame 00-1C4.* of person -1 and"),
        ("tracks_train_info.mat", put(5, 1, 13), r"row 6: frames 11 to 13 are not among the 12 of .*train_name\.txt"),
        ("tracks_train_info.mat", put(0, 0, 0), "row 1: frames 0 to 2 are not among the 12"),
        ("tracks_train_info.mat", put(0, 0, 0.5), "track_train_info must hold whole numbers; it holds float64"),
        ("tracks_train_info.mat", lambda table: table[:, :3], r"track_train_info is of shape \(6, 3\), not \(tracklets, 4\)"),
        ("query_IDX.mat", put(0, 0, 9), "query_IDX must number some of the 8 tracklets of the test, from 1"),
        ("query_IDX.mat", lambda table: table[:, :0], "query_IDX must number some of the 8 tracklets"),
    ],
)
def test_wrong_tables_of_mars_are_named(mars_root, file, change, message):
    edit(mars_root / "mars/info" / file, change)
    with pytest.raises(DataError, match=message):
        MARS(str(mars_root))


def test_mars_names_what_is_missing_or_unreadable(mars_root, tmp_path):
    base = mars_root / "mars"
    lines = (base / "info/test_name.txt").read_text(encoding="utf-8")
    (base / "info/test_name.txt").write_text(lines.replace("0005C6T0008F002.jpg", "frame2.jpg"), encoding="utf-8")
    with pytest.raises(DataError, match=r"test_name\.txt, line 21: 'frame2\.jpg' is not the name of a frame"):
        MARS(str(mars_root))
    (base / "info/test_name.txt").write_text(lines + "0005C6T0009F001.jpg\n", encoding="utf-8")
    assert MARS(str(mars_root)).query.paths
    (base / "bbox_test/0005/0005C6T0008F002.jpg").unlink()
    with pytest.raises(DataError, match=r"line 21: there is no file .*0005C6T0008F002\.jpg"):
        MARS(str(mars_root))
    savemat(base / "info/query_IDX.mat", {"other": np.ones(1)})
    with pytest.raises(DataError, match=r"query_IDX\.mat has no table query_IDX"):
        MARS(str(mars_root))
    (base / "info/query_IDX.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match=r"query_IDX\.mat cannot be read as a MATLAB file"):
        MARS(str(mars_root))
    (base / "info/query_IDX.mat").unlink()
    with pytest.raises(DataError, match=r"incomplete: it lacks info/query_IDX\.mat"):
        MARS(str(mars_root))
    with pytest.raises(DataError, match=r"request this one at http://www\.liangzheng\.com\.cn"):
        MARS(str(tmp_path / "nowhere"))


def test_frames_in_no_tracklet_are_reported(mars_root):
    names = mars_root / "mars/info/train_name.txt"
    names.write_text(names.read_text(encoding="utf-8") + "0003C2T0009F001.jpg\n", encoding="utf-8")
    data = MARS(str(mars_root))
    assert data.notes()[-1].endswith("train_name.txt: passed over 1 frames that are in no tracklet")


# ---- VeRi-776


def test_veri_tracks_group_the_gallery(tmp_path):
    vehicles.write_veri776(tmp_path)
    data = VeRi776(str(tmp_path), tracks=True)
    names = [Path(path).name[:9] for path in data.gallery.paths]
    assert data.gallery.columns["track"].tolist() == [sorted(set(names)).index(name) for name in names]
    assert set(data.query.columns["track"]) == set(data.train.columns["track"]) == {-1}
    plain = VeRi776(str(tmp_path))
    assert plain.gallery.columns == {} and plain.gallery.paths == data.gallery.paths


def test_veri_track_may_begin_with_one_of_its_images(tmp_path):
    vehicles.write_veri776(tmp_path)
    table = tmp_path / "VeRi/test_track.txt"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(line.partition(" ")[2] for line in lines), encoding="utf-8")
    assert len(set(VeRi776(str(tmp_path), tracks=True).gallery.columns["track"])) == 6


def test_veri_images_without_a_track_are_left_out(tmp_path):
    vehicles.write_veri776(tmp_path)
    table = tmp_path / "VeRi/test_track.txt"
    table.write_text("\n".join(table.read_text(encoding="utf-8").splitlines()[1:]), encoding="utf-8")
    data = VeRi776(str(tmp_path), tracks=True)
    assert len(data.gallery) == 10 and data.notes() == ["left out: 2 gallery images in no track"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0004_c001_1.jpg 0004_c001_00000030_0.jpg", r"line 7: 0004_c001_00000030_0\.jpg is in line 1, too"),
        ("0004_c001_1.jpg 0009_c001_00000030_0.jpg", r"line 7: there is no image 0009_c001_00000030_0\.jpg in .*image_test"),
        ("0004_c001_1.jpg", "line 7: the track has no image"),
    ],
)
def test_wrong_tracks_of_veri_are_named(tmp_path, line, message):
    vehicles.write_veri776(tmp_path)
    with (tmp_path / "VeRi/test_track.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        VeRi776(str(tmp_path), tracks=True)


def test_missing_tracks_of_veri_are_named(tmp_path):
    vehicles.write_veri776(tmp_path)
    (tmp_path / "VeRi/test_track.txt").unlink()
    assert VeRi776(str(tmp_path)).gallery.paths
    with pytest.raises(DataError, match=r"test_track\.txt cannot be read"):
        VeRi776(str(tmp_path), tracks=True)


# ---- Market-1501's multi-query


def test_multi_query_groups_images_by_identity_and_camera(tmp_path):
    multi_query.write(tmp_path)
    data, single = (Market1501(str(tmp_path), queries=queries) for queries in ("multi", "single"))
    assert [Path(path).parent.name for path in data.query.paths] == ["gt_bbox"] * 12
    pairs = list(zip(data.query.ids.tolist(), data.query.cameras.tolist()))
    queries = list(zip(single.query.ids.tolist(), single.query.cameras.tolist()))
    assert [queries[group] for group in data.query.columns["group"]] == pairs
    assert sorted(set(pairs)) == sorted(queries) and set(data.gallery.columns["group"]) == {-1}
    assert single.query.columns == {} and single.dropped == data.dropped
    assert any("4 queries of 12 images of gt_bbox" in note and "Grouped" in note for note in data.notes())


def test_query_without_images_is_named(tmp_path):
    multi_query.write(tmp_path)
    base = tmp_path / "Market-1501-v15.09.15"
    for path in (base / "gt_bbox").glob("0005_c2*"):
        path.unlink()
    with pytest.raises(DataError, match=r"gt_bbox has no image of identity 5 under camera 2, the query 0005_c2s1"):
        Market1501(str(tmp_path), queries="multi")
    for path in (base / "gt_bbox").iterdir():
        path.unlink()
    (base / "gt_bbox").rmdir()
    with pytest.raises(DataError, match=r"there is no folder .*gt_bbox"):
        Market1501(str(tmp_path), queries="multi")
