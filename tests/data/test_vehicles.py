"""VehicleID and VERI-Wild: file grammars, tests of several sizes, and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from reidx.data.datasets import VehicleID, VERIWild
from reidx.errors import ConfigError, DataError
from reidx.registry.build import build
from reidx.testing.miniatures import vehicles


@pytest.mark.parametrize("place", [".", "VehicleID_V1.0", "VehicleID", "vehicleid", "vehicleid/VehicleID_V1.0"])
def test_vehicleid_is_found_in_its_places(tmp_path, place):
    vehicles.write_vehicleid(tmp_path / "drawn")
    root = tmp_path / "root"
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "drawn/VehicleID_V1.0").rename(root / place)
    assert Path(VehicleID(str(root)).root) == root / place


def test_vehicleid_queries_are_the_gallery(tmp_path):
    vehicles.write_vehicleid(tmp_path)
    data, medium = VehicleID(str(tmp_path)), VehicleID(str(tmp_path), vehicles=1600)
    assert data.query is data.gallery and data.query.ids.tolist() == [4, 4, 4, 5, 5, 5, 6, 6]
    assert [Path(path).name for path in data.train.paths][:2] == ["0000001.jpg", "0000002.jpg"]
    assert set(data.train.cameras) == set(data.query.cameras) == {-1}
    assert sorted(set(medium.query.ids.tolist())) == [4, 5, 6, 7] and medium.version == "test of 1600 vehicles"
    with pytest.raises(ConfigError, match="vehicles"):
        build("dataset", {"type": "VehicleID", "root": str(tmp_path), "vehicles": 900})
    with pytest.raises(DataError, match=r"lacks train_test_split/test_list_2400\.txt"):
        VehicleID(str(tmp_path), vehicles=2400)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0000099 4", r"test_list_800\.txt, line 9: there is no file .*0000099\.jpg"),
        ("0000007 4", r"line 9: .*0000007\.jpg is in .*line 1, too"),
        ("0000007", r"line 9: '0000007' does not give an image and its identity; a line looks like 0000001 1"),
    ],
)
def test_wrong_line_of_vehicleid_is_named(tmp_path, line, message):
    vehicles.write_vehicleid(tmp_path)
    with (tmp_path / "VehicleID_V1.0/train_test_split/test_list_800.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        VehicleID(str(tmp_path))


def renamed(base: Path) -> None:
    """Give the lists the other names and grammar in use: suffixes, and numbers after the image."""
    names = {"train_list": "train_list_start0", "test_3000_query": "test_3000_id_query", "test_3000": "test_3000_id"}
    for old, new in names.items():
        path = base / f"train_test_split/{old}.txt"
        lines = [f"{line}.jpg 0 12" for line in path.read_text(encoding="utf-8").split()]
        path.unlink()
        (base / f"train_test_split/{new}.txt").write_text("\n".join(lines), encoding="utf-8")


def test_veri_wild_cameras_are_those_of_its_table(tmp_path):
    vehicles.write_veri_wild(tmp_path)
    data = VERIWild(str(tmp_path))
    assert data.query.ids.tolist() == [4, 5, 6] and data.query.cameras.tolist() == [17] * 3
    assert data.gallery.cameras.tolist() == [23, 101] * 3 + [17, 23, 101] and data.distractors == 3
    assert (data.version, data.variant) == ("small test", "small test")
    renamed(tmp_path / "VERI-Wild")
    again = VERIWild(str(tmp_path))
    assert again.gallery.paths == data.gallery.paths and again.gallery.cameras.tolist() == data.gallery.cameras.tolist()
    with pytest.raises(DataError, match=r"lacks test_5000_query\.txt \(or test_5000_id_query\.txt\)"):
        VERIWild(str(tmp_path), test="medium")
    with pytest.raises(ConfigError, match="huge"):
        build("dataset", {"type": "VERIWild", "root": str(tmp_path), "test": "huge"})


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("test_3000", "00004/000011", "00004/000099", r"test_3000\.txt, line 1: there is no file .*000099\.jpg"),
        ("test_3000", "00004/000011", "car.jpg", r"line 1: 'car.jpg' does not give an image"),
        ("vehicle_info", "00004/000011;23;", "00004/000098;23;", r"image 00004/000011 has no camera in .*vehicle_info\.txt"),
        ("vehicle_info", "00004/000011;23;", "00004/000011;north;", r"info\.txt, line 12: '00004/000011;north;.*its camera"),
    ],
)
def test_wrong_line_of_veri_wild_is_named(tmp_path, file, old, new, message):
    vehicles.write_veri_wild(tmp_path)
    path = tmp_path / f"VERI-Wild/train_test_split/{file}.txt"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        VERIWild(str(tmp_path))


def test_table_of_veri_wild_may_have_any_encoding(tmp_path):
    vehicles.write_veri_wild(tmp_path)
    path = tmp_path / "VERI-Wild/train_test_split/vehicle_info.txt"
    path.write_bytes(path.read_bytes().replace(b"Sedan", "轿车".encode("gbk")))
    assert len(VERIWild(str(tmp_path)).gallery) == 9


def test_missing_data_sets_name_their_pages(tmp_path):
    for dataset, page in ((VehicleID, "pkuml.org"), (VERIWild, "github.com/PKU-IMRE/VERI-Wild")):
        with pytest.raises(DataError, match=f"request this one at https://.*{page}|request this one at https://{page}"):
            dataset(str(tmp_path))
