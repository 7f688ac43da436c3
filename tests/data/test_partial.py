"""Tests on partial and occluded bodies: layouts, names, and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from reidx.data.datasets import OccludedREID, PartialILIDS, PartialREID
from reidx.data.datasets.partial import PartialBodies
from reidx.errors import DataError

FOLDERS = {PartialREID: "partial_body_images", PartialILIDS: "query", OccludedREID: "occluded_body_images"}
GALLERIES = {PartialREID: "whole_body_images", PartialILIDS: "gallery", OccludedREID: "whole_body_images"}


def write(base: Path, folder: str, *names: str) -> Path:
    for name in names:
        (base / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (base / folder / name).touch()
    return base


def write_both(base: Path, folders: tuple[str, str]) -> Path:
    write(base, folders[0], "001_001.jpg", "002_001.jpg")
    return write(base, folders[1], "001_003.jpg", "002_001.jpg", "003_001.jpg")


@pytest.mark.parametrize(
    ("dataset", "place", "folders"),
    [
        (PartialREID, "Partial_REID", ("partial_body_images", "whole_body_images")),
        (PartialREID, "PartialREID", ("partial_body_images", "whole_body_images")),
        (PartialREID, "Partial-REID_Dataset", ("partial_body_images", "whole_body_images")),
        (PartialILIDS, "PartialiLIDS", ("query", "gallery")),
        (PartialILIDS, "Partial_iLIDS", ("Probe", "Gallery")),
        (PartialILIDS, "Partial_iLIDS", ("partial_body_images", "whole_body_images")),
        (OccludedREID, "OccludedREID", ("query", "gallery")),
        (OccludedREID, "Occluded_REID", ("occluded_body_images", "whole_body_images")),
    ],
)
def test_each_layout_is_read(tmp_path, dataset: type[PartialBodies], place, folders):
    root = tmp_path / "005_001"  # a folder's name is not read
    base = write_both(root / place, folders)
    for given in (root, base):
        data = dataset(str(given))
        assert (data.query.ids.tolist(), data.gallery.ids.tolist()) == ([1, 2], [1, 2, 3])
        assert {Path(path).parent for path in data.query.paths} == {base / folders[0]}
        assert len(data.train) == 0 and data.card()["train"] == {"images": 0, "ids": 0, "cameras": 0}


@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_cameras_are_unknown(tmp_path, dataset):
    """The second number of a name counts the person's images; read as a camera it would remove matches."""
    data = dataset(str(write_both(tmp_path, (FOLDERS[dataset], GALLERIES[dataset]))))
    assert set(data.query.cameras.tolist()) == set(data.gallery.cameras.tolist()) == {-1}


def test_people_may_have_folders(tmp_path):
    write(tmp_path, "occluded_body_images", "002/002_01.tif", "001/001_02.tif", "001/001_01.tif")
    write(tmp_path, "whole_body_images", "001/001_01.tif", "002/002_01.tif", "Thumbs.db")
    data = OccludedREID(str(tmp_path))
    assert [Path(path).name for path in data.query.paths] == ["001_01.tif", "001_02.tif", "002_01.tif"]
    assert (data.query.ids.tolist(), data.gallery.ids.tolist(), data.remarks) == ([1, 1, 2], [1, 2], [])


def test_folders_next_to_images_are_reported(tmp_path):
    write_both(tmp_path, ("partial_body_images", "whole_body_images"))
    write(tmp_path, "whole_body_images", "backup/009_001.jpg")
    data = PartialREID(str(tmp_path))
    assert data.gallery.ids.tolist() == [1, 2, 3] and data.dropped == {"passed over": 1}
    assert "1 images in sub-folders (backup)" in data.remarks[0]


def test_name_of_a_person_alone_is_read(tmp_path):
    write(tmp_path, "Probe", "001.jpg", "119.jpg")
    write(tmp_path, "Gallery", "001.jpg", "119.jpg")
    assert PartialILIDS(str(tmp_path)).query.ids.tolist() == [1, 119]


@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_wrong_or_absent_images_are_named(tmp_path, dataset):
    folders = FOLDERS[dataset], GALLERIES[dataset]
    (tmp_path / folders[0]).mkdir()
    with pytest.raises(DataError, match=f"is incomplete: it lacks {folders[1]}"):
        dataset(str(tmp_path))
    write_both(tmp_path, folders)
    write(tmp_path, folders[0], "man.jpg")
    with pytest.raises(DataError, match=r"man\.jpg: .* looks like 001_002\.jpg"):
        dataset(str(tmp_path))
    for path in (tmp_path / folders[0]).iterdir():
        path.unlink()
    with pytest.raises(DataError, match=f"{folders[0]} has no image"):
        dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"is not at .* request this one at https://github"):
        dataset(str(tmp_path / "nowhere"))
