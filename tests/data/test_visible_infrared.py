"""SYSU-MM01 and RegDB: file grammars, modalities, trials, and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from reidx.data.datasets import SYSUMM01, RegDB
from reidx.errors import ConfigError, DataError
from reidx.registry.build import build

PEOPLE = {"train": [4, 9], "val": [2], "test": [6, 10]}
SEEN = {4: (1, 3), 9: (2, 5, 6), 2: (1, 6), 6: (1, 2, 3, 4, 6), 10: (2, 3, 5)}
"""Cameras that saw each person; two images each."""


def write_sysu(base: Path, **people: list[int]) -> Path:
    for camera in range(1, 7):
        (base / f"cam{camera}").mkdir(parents=True)
    for person, cameras in SEEN.items():
        for camera in cameras:
            (base / f"cam{camera}" / f"{person:04d}").mkdir()
            for number in (2, 1):
                (base / f"cam{camera}" / f"{person:04d}" / f"{number:04d}.jpg").touch()
    (base / "exp").mkdir()
    for split, numbers in {**PEOPLE, **people}.items():
        (base / "exp" / f"{split}_id.txt").write_text(",".join(map(str, numbers)), encoding="utf-8")
    return base


def write_regdb(base: Path, trials: tuple[int, ...] = (1,), **lists: str) -> Path:
    """Two people for training and two for the test, two images of each modality; the lists of the second trial swap them."""
    (base / "idx").mkdir(parents=True)
    for trial in trials:
        learnt, tested = ((1, 2), (3, 4)) if trial == 1 else ((3, 4), (1, 2))
        for split, people in (("train", learnt), ("test", tested)):
            for kind, folder, mark in (("visible", "Visible", "v"), ("thermal", "Thermal", "t")):
                lines = []
                for number, person in enumerate(people):
                    for image in (1, 2):
                        name = f"{folder}/{person}/male_front_{mark}_{image:05d}_{person}.bmp"
                        (base / name).parent.mkdir(parents=True, exist_ok=True)
                        (base / name).touch()
                        lines.append(f"{name} {number}")
                text = lists.get(f"{split}_{kind}", "\n".join(lines))
                (base / "idx" / f"{split}_{kind}_{trial}.txt").write_text(text, encoding="utf-8")
    return base


def shown(split) -> list[tuple[int, int, int, str]]:
    """Identity, camera, modality and file name of each image."""
    columns = split.ids.tolist(), split.cameras.tolist(), split.columns["modality"].tolist()
    return [(*row, Path(path).name) for *row, path in zip(*columns, split.paths, strict=True)]


@pytest.mark.parametrize("place", [".", "SYSU-MM01", "sysu", "sysu/SYSU-MM01"])
def test_sysu_splits_people_by_its_lists(tmp_path, place):
    root = tmp_path / "cam7" / "0006"  # folder names that look like those of a camera and a person
    base = write_sysu(root / place)
    data = SYSUMM01(str(root))
    assert Path(data.root) == base
    assert {person for person, *_ in shown(data.train)} == {2, 4, 9}
    assert {person for person, *_ in shown(data.query)} == {person for person, *_ in shown(data.gallery)} == {6, 10}
    assert all(Path(path).is_file() for path in data.train.paths + data.query.paths + data.gallery.paths)
    assert [data.camera_number(camera) for camera in range(6)] == [1, 2, 3, 4, 5, 6]


def test_sysu_images_are_in_the_order_of_the_draws(tmp_path):
    data = SYSUMM01(str(write_sysu(tmp_path)))
    twice = ("0001.jpg", "0002.jpg")
    assert shown(data.query) == [(p, c, 1, n) for p, c in ((6, 2), (6, 5), (10, 2)) for n in twice]
    assert shown(data.gallery) == [(p, c, 0, n) for p, c in ((6, 0), (6, 1), (6, 3), (10, 1), (10, 4)) for n in twice]


def test_sysu_modality_selects_training_images(tmp_path):
    root = str(write_sysu(tmp_path))
    both, visible, infrared = (SYSUMM01(root, modality) for modality in ("both", "visible", "infrared"))
    assert sorted(visible.train.paths + infrared.train.paths) == sorted(both.train.paths)
    assert {(camera, kind) for _, camera, kind, _ in shown(visible.train)} == {(0, 0), (1, 0), (4, 0)}
    assert {(camera, kind) for _, camera, kind, _ in shown(infrared.train)} == {(2, 1), (5, 1)}
    for data in (visible, infrared):  # the test is that of both
        assert (data.query.paths, data.gallery.paths) == (both.query.paths, both.gallery.paths)
    assert infrared.card()["train_modality"] == "infrared"
    assert infrared.card()["train"] == {"images": 6, "ids": 3, "cameras": 2}
    with pytest.raises(ConfigError, match="thermal"):
        build("dataset", {"type": "SYSUMM01", "root": root, "modality": "thermal"})


def test_sysu_reports_listed_people_without_images(tmp_path):
    data = SYSUMM01(str(write_sysu(tmp_path, train=[4, 9, 77])))
    assert data.notes() == ["1 of 4 listed people have no image"]
    assert SYSUMM01(str(tmp_path), "visible").notes() == ["1 of 4 listed people have no visible image"]


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ({"val": [4]}, r"val_id\.txt: person 4 is in train_id\.txt, too"),
        ({"test": [9]}, r"test_id\.txt: person 9 is in train_id\.txt, too"),
        ({"test": []}, r"test_id\.txt lists no people"),
        ({"test": ["six"]}, r"test_id\.txt: 'six' is not a person's number; the list looks like 1,2,4,5"),
        ({"test": [77]}, "has no image of the listed people from cameras 3, 6"),
    ],
)
def test_wrong_list_of_people_is_named(tmp_path, people, message):
    write_sysu(tmp_path, **people)
    with pytest.raises(DataError, match=message):
        SYSUMM01(str(tmp_path))


def test_missing_sysu_names_parts_and_request(tmp_path):
    with pytest.raises(DataError) as error:
        SYSUMM01(str(tmp_path / "nowhere"))
    message = str(error.value)
    assert "cam1, cam2, cam3, cam4, cam5, cam6, exp/train_id.txt" in message
    assert str(tmp_path / "nowhere" / "sysu" / "SYSU-MM01") in message
    assert "reidx downloads no data set; request this one at https://" in message
    (write_sysu(tmp_path / "half") / "exp" / "test_id.txt").unlink()
    with pytest.raises(DataError, match=r"incomplete: it lacks exp/test_id\.txt\."):
        SYSUMM01(str(tmp_path / "half"))


@pytest.mark.parametrize("place", [".", "RegDB", "regdb"])
def test_regdb_reads_the_lists_of_a_trial(tmp_path, place):
    base = write_regdb(tmp_path / place, (1, 10))
    first, last = RegDB(str(tmp_path)), RegDB(str(tmp_path), trial=10)
    assert Path(first.root) == base
    people = [{Path(path).parent.name for path in data.train.paths} for data in (first, last)]
    assert people == [{"1", "2"}, {"3", "4"}]
    assert (first.version, last.version) == ("trial 1", "trial 10")
    assert first.card()["train"] == {"images": 8, "ids": 2, "cameras": 2}
    with pytest.raises(DataError, match=r"idx/train_visible_3\.txt"):
        RegDB(str(tmp_path), trial=3)


@pytest.mark.parametrize("trial", [0, 11])
def test_regdb_has_ten_trials(tmp_path, trial):
    with pytest.raises(ConfigError, match=f"trial is {trial}; the trials are 1 to 10"):
        build("dataset", {"type": "RegDB", "root": str(tmp_path), "trial": trial})


def test_regdb_query_chooses_the_direction(tmp_path):
    root = str(write_regdb(tmp_path))
    forth, back = RegDB(root), RegDB(root, query="infrared")
    assert (forth.query.paths, forth.gallery.paths) == (back.gallery.paths, back.query.paths)
    assert shown(forth.query) == [(p, 0, 0, f"male_front_v_0000{n}_{p + 3}.bmp") for p in (0, 1) for n in (1, 2)]
    assert {(camera, kind) for _, camera, kind, _ in shown(forth.gallery)} == {(1, 1)}
    assert forth.card()["direction"] == "visible to infrared" and back.card()["direction"] == "infrared to visible"


def test_regdb_modality_selects_training_images(tmp_path):
    root = str(write_regdb(tmp_path))
    both, visible, infrared = (RegDB(root, modality=modality) for modality in ("both", "visible", "infrared"))
    assert visible.train.paths + infrared.train.paths == both.train.paths
    assert {kind for _, _, kind, _ in shown(visible.train)} == {0}
    assert {kind for _, _, kind, _ in shown(infrared.train)} == {1}
    assert visible.query.paths == infrared.query.paths == both.query.paths


LISTED = "Visible/1/male_front_v_00001_1.bmp 0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LISTED}\nVisible/1/male.bmp", r"train_visible_1\.txt, line 2: .* does not give an image and its identity"),
        (f"{LISTED}\n\nVisible/9/a.bmp 1", r"line 3: there is no file .*Visible/9/a\.bmp"),
        (f"{LISTED}\n{LISTED}", r"line 2: .* is in .*train_visible_1\.txt, line 1, too"),
        ("", r"train_visible_1\.txt lists no images"),
    ],
)
def test_wrong_line_of_regdb_is_named(tmp_path, text, message):
    write_regdb(tmp_path, train_visible=text)
    with pytest.raises(DataError, match=message):
        RegDB(str(tmp_path))
