"""Data sets made of others: the numbers of a union's people and cameras, its columns, and subsets drawn by seed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reidx
from reidx.data.datasets import Subset, Union
from reidx.data.domains import Domains
from reidx.data.fingerprint import fingerprint
from reidx.errors import ConfigError, DataError
from reidx.registry.build import contract
from reidx.testing.tiny import load_experiment, tiny_domain, tiny_experiment


def table(folder: Path, *rows: str, columns: str = "") -> dict[str, Any]:
    """Write a table and its empty images; return its spec."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (folder / row.partition(",")[0]).write_text(row)
    head = ["path,pid,camid,split" + (f",{columns}" if columns else "")]
    (folder / "t.csv").write_text("\n".join([*head, *rows]), encoding="utf-8")
    return {"type": "CSV", "path": str(folder / "t.csv"), **({"columns": columns.split(",")} if columns else {})}


FIRST = ["a.jpg,7,1,train", "b.jpg,9,2,train", "c.jpg,5,1,query", "d.jpg,5,2,gallery", "e.jpg,7,3,gallery"]
SECOND = ["a.jpg,7,1,train", "b.jpg,0,4,query", "c.jpg,0,1,gallery"]


@pytest.fixture
def parts(tmp_path: Path) -> list[dict[str, Any]]:
    return [table(tmp_path / "one", *FIRST), table(tmp_path / "two", *SECOND)]


def union(of: list[dict[str, Any]], **arguments: Any) -> Union:
    return reidx.build("dataset", {"type": "Union", "of": of, **arguments}, where="x")


def subset(of: Any, **arguments: Any) -> Subset:
    return reidx.build("dataset", {"type": "Subset", "of": of, **arguments}, where="x")


# ---- unions


def test_people_and_cameras_of_parts_differ(parts):
    data = union(parts)
    assert [Path(path).parent.name + Path(path).name[0] for path in data.train.paths] == ["onea", "oneb", "twoa"]
    # the people 5, 7, 9 of the first part are 0, 1, 2, the people 0, 7 of the second are 3, 4
    assert [split.ids.tolist() for split in (data.train, data.query, data.gallery)] == [[1, 2, 4], [0, 3], [0, 1, 3]]
    # the cameras 1, 2, 3 of the first part are 0, 1, 2, the cameras 1, 4 of the second are 3, 4
    assert [split.cameras.tolist() for split in (data.train, data.query, data.gallery)] == [[0, 1, 3], [0, 4], [1, 2, 3]]
    assert data.name == "t + t" and [part["train"]["ids"] for part in data.card()["parts"]] == [2, 1]


def test_shared_numbers_stay(parts):
    data = union(parts, shared_ids=True, shared_cameras=True)
    assert data.train.ids.tolist() == [7, 9, 7] and data.gallery.cameras.tolist() == [2, 3, 1]
    assert union(parts, shared_cameras=True).train.ids.tolist() == [1, 2, 4]


def test_shared_names_are_the_same_people(tmp_path):
    one = table(tmp_path / "one", "a.jpg,zoe,hall,train", "b.jpg,al,hall,train")
    two = table(tmp_path / "two", "a.jpg,bo,hall,train", "b.jpg,zoe,yard,train")
    data = union([one, two], shared_ids=True)
    assert data.train.ids.tolist() == [2, 0, 1, 2] and data.numbered == {"ids": ["al", "bo", "zoe"]}
    assert data.train.cameras.tolist() == [0, 0, 1, 2]
    with pytest.raises(DataError, match="ids: t has names and t has numbers, so they cannot be shared"):
        union([one, table(tmp_path / "three", "a.jpg,3,1,train")], shared_ids=True)


def test_unknown_cameras_stay_unknown(tmp_path, parts):
    data = union([table(tmp_path / "three", "a.jpg,3,,train"), *parts])
    assert data.train.cameras.tolist() == [-1, 0, 1, 3] and data.train.ids.tolist() == [0, 2, 3, 5]


def test_part_without_identities_is_reported(tmp_path, parts):
    data = union([*parts, {"type": "ImageFolder", "root": str(tmp_path / "one")}])
    assert data.train.ids is None and len(data.train) == 3 + 5 and data.query.ids.tolist() == [0, 3]
    assert "no identities for training, because one has none" in data.notes()


def test_images_in_two_parts_are_reported(parts):
    twice = union([parts[0], parts[0]])
    said = [f"{count} {split} images are in two parts, as different people" for count, split in ((2, "train"), (1, "query"))]
    assert twice.notes()[-3:-1] == said and len(np.unique(twice.train.ids)) == 4
    assert not any("two parts" in note for note in (*union(parts).notes(), *union([parts[0]] * 2, shared_ids=True).notes()))


def test_columns_of_a_union(tmp_path):
    one = table(tmp_path / "one", "a.jpg,1,1,train,4,0", "b.jpg,1,1,train,8,1", columns="clothes,modality")
    two = table(tmp_path / "two", "a.jpg,2,1,train,1,4", columns="modality,clothes")
    three = table(tmp_path / "three", "a.jpg,2,1,train,1", columns="modality")
    data = union([one, two])
    assert data.train.columns["clothes"].tolist() == [0, 1, 2] and data.train.columns["modality"].tolist() == [0, 1, 1]
    assert union([one, two], apart=[]).train.columns["clothes"].tolist() == [4, 8, 4]
    assert union([one, three]).train.columns.keys() == {"modality"}
    data = union([one, three], columns="all")
    assert data.train.columns["clothes"].tolist() == [0, 1, -1]
    for columns, names in (("common", {"modality"}), ("all", {"modality", "clothes"})):
        assert contract("dataset", {"type": "Union", "of": [one, three], "columns": columns}).columns == names


def test_union_needs_a_list_of_data_sets(tmp_path, parts, domains_root):
    with pytest.raises(ConfigError, match="of lists 1 data sets; a union has two or more"):
        union(parts[:1])
    with pytest.raises(ConfigError, match=r"'of' is \{.*expected DatasetSpecs"):
        union(parts[0])
    with pytest.raises(ConfigError, match=r"'of' is \[.*expected DatasetSpec"):
        subset(parts, images=1)
    of = [tiny_domain(domains_root), {"type": "Market", "root": "x"}]
    domains = {"target": {"type": "Union", "of": of}}
    with pytest.raises(ConfigError, match=r"target\.of\.1: There is no dataset called 'Market'"):
        load_experiment(tmp_path, tiny_experiment(domains_root, data={"domains": domains}))


def test_config_of_a_union_is_filled(tmp_path, domains_root):
    of = [tiny_domain(domains_root), {"type": "MSMT17", "root": "x"}]
    data = {"image_size": [48, 24], "domains": {"target": {"type": "Union", "of": of}}}
    loaded = load_experiment(tmp_path, tiny_experiment(domains_root, data=data)).data["data"]["domains"]["target"]
    assert loaded["of"][1]["version"] == "auto" and loaded["shared_ids"] is False


def test_union_may_be_split_and_moved(tmp_path, parts, domains_root):
    split = {"type": "CameraSplit", "of": {"type": "Union", "of": parts}, "side": "source", "cameras": [0, 1, 3]}
    assert reidx.build("dataset", split).train.cameras.max() <= 3
    first = fingerprint(union(parts))
    assert first != fingerprint(union(parts[::-1])) and first != fingerprint(union(parts, shared_ids=True))
    assert first["train"]["files"] != fingerprint(union([parts[0], parts[0]]))["train"]["files"]
    shutil.move(tmp_path / "two", tmp_path / "far" / "away" / "two")
    moved = {"type": "CSV", "path": str(tmp_path / "far" / "away" / "two" / "t.csv")}
    assert fingerprint(union([parts[0], moved])) == first
    split["of"] = {"type": "Union", "of": [parts[0], moved]}
    assert fingerprint(reidx.build("dataset", split))


def test_notices_of_parts_are_shown(tmp_path, monkeypatch, parts):
    from reidx.data.datasets import CSV, Facts

    monkeypatch.setattr(CSV, "facts", Facts("", "", notice="withdrawn"))
    assert union(parts).notes() == ["t: withdrawn", "t: withdrawn"] and union(parts).notices() == ["withdrawn"]
    assert subset(parts[0], images=1).notes()[0] == "withdrawn"
    side = {"type": "CameraSplit", "of": parts[0], "side": "source", "cameras": [1, 2]}
    assert reidx.build("dataset", side).notes()[0] == "withdrawn"


# ---- subsets


def test_subset_of_people_keeps_the_test(domains_root):
    spec = tiny_domain(domains_root)
    whole = reidx.build("dataset", spec)
    data = subset(spec, identities=5)
    assert len(np.unique(data.train.ids)) == 5 and len(data.train) == 5 * 12
    kept = np.isin(whole.train.ids, data.train.ids)
    assert data.train.paths == whole.train.select(kept).paths
    assert data.query.paths == whole.query.paths and data.gallery.paths == whole.gallery.paths
    assert data.notes() == ["left out: 84 training images outside the subset"]
    assert data.name == "Market-1501, 5 people of seed 0" and data.card()["train"]["ids"] == 5


def test_larger_subset_contains_the_smaller(domains_root):
    spec = tiny_domain(domains_root)
    for key, counts in (("identities", (3, 7)), ("images", (10, 100)), ("fraction", (0.1, 0.6))):
        small, large = (set(subset(spec, **{key: count}).train.paths) for count in counts)
        assert small < large
        assert small != set(subset(spec, seed=1, **{key: counts[0]}).train.paths)
    assert len(subset(spec, fraction=0.25).train) == 36


def test_subset_by_camera_and_number(domains_root):
    spec = tiny_domain(domains_root)
    data = subset(spec, cameras=[1, 3], identities=4, images=9)
    assert set(data.train.cameras.tolist()) <= {0, 2} and len(data.train) == 9
    assert data.name == "Market-1501, cameras 1, 3, 4 people, 9 images of seed 0" and data.camera_number(2) == 3
    inner = {"type": "CameraSplit", "of": spec, "side": "source", "cameras": [1, 2]}
    assert len(subset(inner, fraction=0.5).train) == 24
    again = {"type": "Subset", "of": {"type": "Subset", "of": spec, "identities": 4}, "images": 5}
    assert len(Domains({**SETTINGS, "domains": {"a": again}}).split("a", "train")) == 5


SETTINGS = {"image_size": [48, 24], "interpolation": "bilinear", "workers": 0, "cache_gb": 1.0}


def test_subset_draw_is_fixed(parts):
    # no library may change this draw: another one would be another benchmark
    rows = [f"{n}.jpg,{n},1,train" for n in range(6)]
    of = table(Path(parts[0]["path"]).parent / "six", *rows)
    assert [sorted(subset(of, images=3, seed=seed).train.ids.tolist()) for seed in (0, 1)] == [[0, 2, 4], [0, 1, 3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give identities, cameras, fraction or images"),
        ({"fraction": 0.5, "images": 3}, "leave out one"),
        ({"fraction": 0.0}, "fraction is 0.0; it is a share above 0"),
        ({"identities": 0}, "must each be at least one"),
        ({"cameras": []}, "must each be at least one"),
        ({"identities": 3}, "t has 2 such people, not 3"),
        ({"images": 3}, "t has 2 such training images, not 3"),
        ({"cameras": [3]}, "t has no training image of camera 3; its cameras are 1, 2"),
    ],
)
def test_wrong_subsets_are_refused(parts, arguments, message):
    with pytest.raises((ConfigError, DataError), match=message):
        subset(parts[0], **arguments)


def test_people_of_unlabelled_images_cannot_be_drawn(tmp_path):
    of = table(tmp_path, "a.jpg,,1,train", "b.jpg,,1,train")
    with pytest.raises(DataError, match="has no identities for its training images"):
        subset(of, identities=1)
    assert subset(of, images=1).train.ids is None
