"""Two domains out of one: their people and cameras, the rest of the test split, and the error messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reidx
from reidx.config.config import Config
from reidx.data.datasets import CSV, CameraSplit, Market1501
from reidx.data.datasets.camera_split import split_identities
from reidx.data.domains import Domains
from reidx.data.fingerprint import fingerprint
from reidx.errors import ConfigError, DataError
from reidx.registry.build import build, contract, nested_in
from reidx.testing.tiny import tiny_domain, write_experiment

PEOPLE, CAMERAS = range(1, 10), range(1, 7)
ROWS = [f"{p:04d}_c{c}s1_{i:06d}_00.jpg" for p in PEOPLE for c in CAMERAS for i in range(2)]
QUERY = ["1001_c1s1_0_0.jpg", "1001_c4s1_0_0.jpg", "1002_c4s1_0_0.jpg", "1002_c5s1_0_0.jpg", "1003_c6s1_0_0.jpg"]
GALLERY = [
    *("1001_c2s1_1_0.jpg", "1001_c4s1_1_0.jpg", "1001_c6s1_1_0.jpg"),
    *("1002_c5s1_1_0.jpg", "1003_c6s1_1_0.jpg", "1003_c1s1_1_0.jpg"),
    *("0000_c4s1_1_0.jpg", "0000_c1s1_1_0.jpg", "-1_c4s1_1_0.jpg"),
]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("market")
    for folder, names in (("bounding_box_train", ROWS), ("query", QUERY), ("bounding_box_test", GALLERY)):
        (root / folder).mkdir()
        for name in names:
            (root / folder / name).touch()
    return str(root)


def side(root: str, name: str, cameras: list[int], seed: int = 0) -> CameraSplit:
    return CameraSplit({"type": "Market1501", "root": root}, name, cameras, seed)  # type: ignore[arg-type]


def test_sides_have_different_people_and_cameras(market: str) -> None:
    source, target = side(market, "source", [1, 2, 3]), side(market, "target", [4, 5, 6])
    people = set(source.train.ids.tolist()), set(target.train.ids.tolist())
    assert (len(people[0]), len(people[1])) == (5, 4) and people[0] | people[1] == set(PEOPLE)
    assert (set(source.train.cameras.tolist()), set(target.train.cameras.tolist())) == ({0, 1, 2}, {3, 4, 5})
    for data, own, cameras in ((source, people[0], "123"), (target, people[1], "456")):
        wanted = [row for row in ROWS if int(row[:4]) in own and row[6] in cameras]
        assert [Path(path).name for path in data.train.paths] == wanted
        assert all(Path(path).is_file() for path in data.train.paths)
        rows = zip(data.train.paths, data.train.ids.tolist(), data.train.cameras.tolist())
        assert all((int(Path(path).name[:4]), int(Path(path).name[6]) - 1) == (who, c) for path, who, c in rows)


def test_sides_keep_the_columns_of_the_data_set(tmp_path: Path) -> None:
    rows = ["path,pid,camid,split,clothes"]
    for place, (who, camera) in enumerate((who, camera) for who in range(4) for camera in range(4)):
        (tmp_path / f"{place}.jpg").touch()
        split = "train" if who < 2 else ("query", "gallery")[camera % 2]
        rows.append(f"{place}.jpg,{who},{camera},{split},{10 * who + camera}")
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    table = {"type": "CSV", "path": str(tmp_path / "t.csv"), "columns": ["clothes"]}
    assert contract("dataset", {"type": "CameraSplit", "of": table, "side": "source", "cameras": [1]}).columns == {"clothes"}
    made = CameraSplit(table, "source", [1, 2])
    for part in (made.train, made.query, made.gallery):
        assert len(part) and part.columns["clothes"].tolist() == (10 * part.ids + part.cameras).tolist()


def test_queries_without_a_match_are_counted(market: str) -> None:
    target = side(market, "target", [4, 5, 6])
    # camera 6 sees 1001 too, camera 5 sees 1002; query 1002 of camera 5 and query 1003 of camera 6 have no match
    assert [Path(path).name for path in target.query.paths] == ["1001_c4s1_0_0.jpg", "1002_c4s1_0_0.jpg"]
    assert [Path(path).name[:6] for path in target.gallery.paths] == [
        *("0000_c", "1001_c", "1001_c", "1002_c", "1003_c"),
    ]
    assert set(target.gallery.cameras.tolist()) == {3, 4, 5}
    card = target.card()
    assert card["name"] == "Market-1501, cameras 4, 5, 6, target half of seed 0"
    assert card["version"] == "v15.09.15" and card["distractors"] == 2
    assert card["dropped"] == {"junk": 1, "background": 0, "queries without a match": 2}
    assert card["train"] == {"images": 24, "ids": 4, "cameras": 3}


def test_one_camera_trains_without_queries(market: str) -> None:
    source = side(market, "source", [2])
    assert source.card()["train"] == {"images": 10, "ids": 5, "cameras": 1}
    assert len(source.query) == 0 and len(source.gallery) == 1


def test_halves_depend_only_on_ids_and_seed(tmp_path: Path, market: str) -> None:
    ids = np.array([4, 4, 1, 9, 7, 1, 2])
    for seed in range(20):
        first, again = split_identities(ids, seed), split_identities(ids[::-1].copy(), seed)
        assert all(np.array_equal(first[name], again[name]) for name in first)
        assert sorted([*first["source"], *first["target"]]) == [1, 2, 4, 7, 9] and len(first["source"]) == 3
    assert len({tuple(sorted(split_identities(np.arange(10), seed)["source"])) for seed in range(50)}) > 30
    # no library may change this order: another order would be another benchmark
    assert [split_identities(np.arange(6), seed)["source"].tolist() for seed in (0, 1)] == [[4, 0, 2], [3, 0, 1]]
    rows = [f"{p}_{c}.jpg,{p},{c},train" for p in (5, 2, 9, 4) for c in (3, 8)]
    for row in rows:
        (tmp_path / row.partition(",")[0]).touch()
    sides = []
    for number, order in enumerate((rows, rows[::-1])):
        table = tmp_path / f"{number}.csv"
        table.write_text("\n".join(["path,pid,camid,split", *order]), encoding="utf-8")
        sides.append(CameraSplit({"type": "CSV", "path": str(table)}, "source", [8]))
    assert sorted(sides[0].train.paths) == sorted(sides[1].train.paths) and len(sides[0].train) == 2
    assert fingerprint(sides[0])["train"]["images"] == 2  # a table's cameras keep the table's numbers
    other = next(seed for seed in range(1, 9) if set(split_identities(np.arange(1, 10), seed)["source"]) != people(market, 0))
    assert fingerprint(side(market, "source", [1])) != fingerprint(side(market, "source", [1], other))


def people(root: str, seed: int) -> set[int]:
    return set(side(root, "source", [1], seed).train.ids.tolist())


def test_halves_are_fair_over_many_seeds() -> None:
    counts = np.zeros(40)
    for seed in range(400):
        counts[split_identities(np.arange(40), seed)["source"]] += 1
    assert counts.min() > 150 and counts.max() < 250  # 200 each, give or take 10


def test_it_can_be_split_again(market: str) -> None:
    inner = {"type": "CameraSplit", "of": {"type": "Market1501", "root": market}, "side": "target", "cameras": [4, 5, 6]}
    twice = CameraSplit(inner, "source", [5, 6])
    assert set(twice.train.ids.tolist()) < set(side(market, "target", [4, 5, 6]).train.ids.tolist())
    assert set(twice.train.cameras.tolist()) == {4, 5} and twice.camera_number(4) == 5


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ([4, 9, 0], r"lit \(data\.domains\.x\): Market-1501 has no training image of camera 0, 9; its .* 1, 2, 3, 4, 5, 6\.$"),
        ([], r"cameras is \[\]; list each camera of this side once, and one at least"),
        ([4, 4], r"cameras is \[4, 4\]; list each camera"),
    ],
)  # fmt: skip
def test_wrong_cameras_are_named(market: str, cameras: list[int], message: str) -> None:
    spec = {"type": "CameraSplit", "of": {"type": "Market1501", "root": market}, "side": "source", "cameras": cameras}
    with pytest.raises((ConfigError, DataError), match=message):
        build("dataset", spec, where="data.domains.x")


def table(folder: Path, *rows: str) -> dict[str, Any]:
    for row in rows:
        (folder / row.partition(",")[0]).touch()
    (folder / "t.csv").write_text("\n".join(["path,pid,camid,split", *rows]), encoding="utf-8")
    return {"type": "CSV", "path": str(folder / "t.csv")}


def test_data_that_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="t names no cameras for its images, so it cannot be split"):
        CameraSplit(table(tmp_path, "a.jpg,1,,train", "b.jpg,2,,train"), "source", [1])
    with pytest.raises(DataError, match="t has no identities for its train images"):
        CameraSplit(table(tmp_path, "a.jpg,,1,train", "b.jpg,,2,train"), "source", [1])
    who = int(split_identities(np.array([1, 2]), 0)["source"][0])
    rows = table(tmp_path, f"a.jpg,{who},1,train", f"b.jpg,{3 - who},2,train")
    with pytest.raises(DataError, match=r"t: camera 2 took no training image of the 1 people in the source half of seed 0"):
        CameraSplit(rows, "source", [2])
    assert CameraSplit(rows, "source", [1]).train.ids.tolist() == [who]
    assert CSV(str(tmp_path / "t.csv")).camera_number(2) == 2


# ---- in a config


def load(tmp_path: Path, target: dict[str, Any], *overrides: str) -> Config:
    experiment = {
        "name": "x",
        "data": {"domains": {"target": target}},
        "model": {"backbone": {"type": "Timm", "name": "test_vit"}},
        "stages": [{"name": "only", "epochs": 0}],
    }
    return reidx.load_config(write_experiment(tmp_path / "exp.yaml", experiment), list(overrides))


SPLIT = {"type": "CameraSplit", "of": {"type": "MSMT17", "root": "data"}, "side": "target", "cameras": [1, 2]}


def test_inner_data_set_is_checked_and_completed(tmp_path: Path) -> None:
    config = load(tmp_path, SPLIT, "data.domains.target.of.version=V2")
    target = config.data["data"]["domains"]["target"]
    assert target["of"] == {"type": "MSMT17", "root": "data", "version": "V2", "train": "trainval"}
    assert target["seed"] == 0 and next(iter(target)) == "type"
    at = ("data", "domains", "target", "of")
    assert str(config.tree.origin((*at, "train"))) == "default of MSMT17"
    assert str(config.tree.origin((*at, "version"))) == "--set"
    assert str(config.tree.origin((*at, "root"))).endswith("exp.yaml:8")
    (tmp_path / "again.yaml").write_text(config.render(), encoding="utf-8")
    assert reidx.load_config(tmp_path / "again.yaml").hash == config.hash


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({"type": "MSMT17", "root": ".", "rot": "."}, r"yaml:6: data\.domains\.target\.of\): .*'rot' \(.*yaml:9\)\. Did you"),
        ({"type": "MSMT17", "root": ".", "version": "V3"}, r"yaml:6: data\.domains\.target\.of\): 'version' .* is 'V3'"),
        ({"type": "Market"}, r"exp\.yaml:6: data\.domains\.target\.of: There is no dataset called 'Market'"),
        ({"type": "DBSCAN"}, r"DBSCAN is a clusterer, not a dataset"),
        ({"root": "data"}, r"target\.of is .* without 'type'; a dataset is written as"),
        ("MSMT17", r"yaml:6: data\.domains\.target\.of\): 'root' \(str\) is missing"),
        (3, r"exp\.yaml:6: data\.domains\.target\.of is a number; a dataset is written as a name"),
        ({**SPLIT, "side": "middle"}, r"data\.domains\.target\.of\): 'side' .*is 'middle'"),
    ],
)  # fmt: skip
def test_inner_data_set_mistakes_name_their_place(tmp_path: Path, inner: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, {**SPLIT, "of": inner})
    assert re.search(message, str(error.value)), str(error.value)


def test_inner_data_set_is_a_nested_component() -> None:
    assert nested_in("dataset", "CameraSplit") == {"of": "dataset"} and nested_in("dataset", "Market1501") == {}


def test_wrong_inner_data_set_from_python() -> None:
    with pytest.raises(ConfigError, match=r"of: a dataset is written as a name or as \{type: name, …\}, not as 3"):
        build("dataset", {**SPLIT, "of": 3})


def test_both_sides_of_a_drawn_domain(domains_root: Path) -> None:
    inner = tiny_domain(domains_root)
    specs = {
        "source": {"type": "CameraSplit", "of": inner, "side": "source", "cameras": [1]},
        "target": {"type": "CameraSplit", "of": inner, "side": "target", "cameras": [2, 3]},
    }
    data = {"image_size": [48, 24], "interpolation": "bilinear", "workers": 0, "cache_gb": 1.0, "domains": specs}
    domains = Domains(data)
    source, target = domains["source"].card(), domains["target"].card()
    assert source["train"] == {"images": 24, "ids": 6, "cameras": 1}
    assert target["train"] == {"images": 48, "ids": 6, "cameras": 2}
    assert target["query"] == {"images": 12, "ids": 6, "cameras": 2}
    assert source["dropped"]["queries without a match"] == 6


# ---- the shipped config


def test_the_shipped_split_of_the_real_market() -> None:
    root = Path(__file__).resolve().parents[2] / "data"
    if not (root / "Market-1501-v15.09.15").is_dir():
        pytest.skip("data/Market-1501-v15.09.15 is not here")
    whole = Market1501(str(root))
    sides = [side(str(root), "source", [1, 2, 3]), side(str(root), "target", [4, 5, 6])]
    assert len(split_identities(whole.train.ids, 0)["source"]) == 376
    assert not set(sides[0].train.ids) & set(sides[1].train.ids)
    assert not set(sides[0].train.paths) & set(sides[1].train.paths)
    assert [data.card()["train"]["images"] for data in sides] == [3157, 3164]
    for data in sides:
        assert len(data.query) > 1000 and not set(data.train.ids) & set(data.query.ids)
