"""Single-shot sets: layouts, halves of people, distractors, partitions of GRID, and error messages."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from reidx.data.datasets import GRID, PRID2011, VIPeR
from reidx.data.datasets.single_shot import TRIALS, SingleShot, draw_half
from reidx.errors import ConfigError, DataError
from reidx.evaluation.matches import has_match
from reidx.evaluation.protocols import Market1501
from reidx.registry.build import build
from reidx.testing.miniatures import single_shot

WRITERS = {VIPeR: single_shot.write_viper, GRID: single_shot.write_grid, PRID2011: single_shot.write_prid2011}
HOMES = {VIPeR: "viper/VIPeR", GRID: "grid/underground_reid", PRID2011: "prid2011/prid_2011"}
EACH = pytest.mark.parametrize("dataset", list(WRITERS))


def people(split: Any) -> set[int]:
    return set(split.ids.tolist())


@pytest.mark.parametrize(
    ("dataset", "place"),
    [(VIPeR, "VIPeR"), (GRID, "underground_reid"), (GRID, "Grid"), (PRID2011, "prid_2011"), (PRID2011, "prid2011")],
)
def test_each_layout_is_read(tmp_path, dataset: type[SingleShot], place):
    WRITERS[dataset](tmp_path)
    base = tmp_path / HOMES[dataset]
    for root in (tmp_path, base.parent, base):
        assert Path(dataset(str(root), 1).root) == base
    base.rename(tmp_path / "moved")
    (tmp_path / "007_8" / place).parent.mkdir()
    (tmp_path / "moved").rename(tmp_path / "007_8" / place)
    assert Path(dataset(str(tmp_path / "007_8"), 1).root) == tmp_path / "007_8" / place


@EACH
def test_each_trial_divides_the_people(tmp_path, dataset):
    WRITERS[dataset](tmp_path)
    found = []
    for trial in TRIALS:
        data = dataset(str(tmp_path), trial)
        learnt, tested = people(data.train), people(data.query)
        assert not learnt & (tested | people(data.gallery)) and tested <= people(data.gallery)
        assert len(learnt) == len(tested) and data.card()["version"] == f"trial {trial}"
        known = data.query.ids, data.gallery.ids, data.query.cameras, data.gallery.cameras
        assert has_match(Market1501(), known).all()
        found.append(frozenset(learnt))
    assert len(set(found)) > 2


def test_halves_follow_from_the_trial_alone():
    halves = [draw_half(range(632), trial) for trial in TRIALS]
    assert all(len(half) == len(set(half)) == 316 for half in halves)
    assert len({frozenset(half) for half in halves}) == 10
    assert draw_half(reversed(range(632)), 3) == halves[2]
    assert all(100 < len(set(one) & set(two)) < 216 for one, two in itertools.pairwise(halves))  # 158 expected
    assert len(draw_half(range(5), 1)) == 2


def test_viper_queries_of_either_camera(tmp_path):
    single_shot.write_viper(tmp_path)
    one, two = (VIPeR(str(tmp_path), 4, query) for query in ("a", "b"))
    assert one.query.paths == two.gallery.paths and one.gallery.paths == two.query.paths
    assert sorted(one.train.paths) == sorted(two.train.paths)
    assert (one.card()["direction"], two.card()["direction"]) == ("a to b", "b to a")


def test_person_of_one_camera_is_left_out(tmp_path):
    single_shot.write_viper(tmp_path)
    for name in ("cam_a/700_0.bmp", "cam_b/701_0.bmp", "cam_b/702_90.bmp"):
        (tmp_path / "viper" / "VIPeR" / name).touch()
    data = VIPeR(str(tmp_path))
    assert data.dropped == {"gallery images without a query": 2, "queries without a match": 1}
    assert not {700, 701, 702} & (people(data.train) | people(data.query) | people(data.gallery))


def test_grid_follows_its_partitions(tmp_path):
    single_shot.write_grid(tmp_path)
    for trial, trained in zip(TRIALS, single_shot.PARTITIONS):
        data = GRID(str(tmp_path), trial)
        assert people(data.train) == set(trained) and people(data.query) == {1, 2, 3, 4} - set(trained)
        assert people(data.gallery) == people(data.query) | {0}
    assert data.distractors == 3
    cameras = [int(Path(path).name.split("_")[1]) - 1 for path in data.gallery.paths]
    assert data.gallery.cameras.tolist() == cameras


def test_background_is_no_query_of_grid(tmp_path):
    single_shot.write_grid(tmp_path)
    (tmp_path / "grid" / "underground_reid" / "probe" / "0000_8_25000_1_2_3_4.jpeg").touch()
    assert 0 not in people(GRID(str(tmp_path)).query)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"features_and_partitions\.mat: trial 1 cannot be read"),
        (b"no mat file" * 20, r"features_and_partitions\.mat: trial 1 cannot be read"),
        ({"other": np.zeros(2)}, r"trial 1 cannot be read \(KeyError"),
        ({"trainIdxAll": np.zeros((1, 10))}, r"trial 1 cannot be read"),
        ({"trainIdxAll": [[{"a": 0, "b": 0, "c": np.zeros((1, 0))}]]}, r"trial 1 is empty"),
        ({"trainIdxAll": [[{"a": 0, "b": 0, "c": np.array([[1, 9]])}]]}, r"trial 1 names person 9, who is not in both probe"),
    ],
)
def test_wrong_partitions_are_named(tmp_path, content, message):
    single_shot.write_grid(tmp_path)
    table = tmp_path / "grid" / "underground_reid" / "features_and_partitions.mat"
    if isinstance(content, bytes):
        table.write_bytes(content)
    else:
        cells = np.empty((1, 1), object)
        if isinstance(content.get("trainIdxAll"), list):
            cells[0, 0] = content["trainIdxAll"][0][0]
            content = {"trainIdxAll": cells}
        savemat(table, content)
    with pytest.raises(DataError, match=message):
        GRID(str(tmp_path))


def test_prid_keeps_the_strangers_of_camera_b(tmp_path):
    single_shot.write_prid2011(tmp_path)
    data = PRID2011(str(tmp_path))
    assert {201, 202} <= people(data.gallery) and not {201, 202} & (people(data.query) | people(data.train))
    assert data.distractors == 2 and data.dropped["people of camera A alone"] == 2
    assert set(data.query.cameras.tolist()) == {0} and set(data.gallery.cameras.tolist()) == {1}


@EACH
@pytest.mark.parametrize("trial", [0, 11])
def test_trial_beyond_ten_is_refused(tmp_path, dataset, trial):
    with pytest.raises(ConfigError, match=f"trial is {trial}; the trials are 1 to 10"):
        build("dataset", {"type": dataset.__name__, "root": str(tmp_path), "trial": trial})


@EACH
def test_wrong_name_and_missing_folder_are_named(tmp_path, dataset):
    WRITERS[dataset](tmp_path)
    base, part = tmp_path / HOMES[dataset], dataset.parts[1]
    (base / part / "man.png").touch()
    with pytest.raises(DataError, match=r"man\.png: .* looks like ") as error:
        dataset(str(tmp_path))
    assert dataset.example in str(error.value)
    for path in (base / part).iterdir():
        path.unlink()
    with pytest.raises(DataError, match=f"{part} has no image"):
        dataset(str(tmp_path))
    (base / part).rmdir()
    with pytest.raises(DataError, match=f"is incomplete: it lacks {part}"):
        dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"is not at .* request this one at http"):
        dataset(str(tmp_path / "nowhere"))


def test_too_few_people_are_refused(tmp_path):
    for side in "ab":
        (tmp_path / f"cam_{side}").mkdir()
        (tmp_path / f"cam_{side}" / "001_0.bmp").touch()
    with pytest.raises(DataError, match="too few people are in both folders for a training half"):
        VIPeR(str(tmp_path))
