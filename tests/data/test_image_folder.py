"""Folders of the user's own images: identities by folder or name, splits, drawn tests, and the error messages."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import reidx
from reidx.data.datasets import ImageFolder
from reidx.data.datasets.drawn_test import draw_test
from reidx.data.datasets.folder import images_below
from reidx.data.fingerprint import fingerprint
from reidx.errors import ConfigError, DataError
from reidx.registry.build import contract

NAMES = r"(?P<pid>\d+)_c(?P<camid>\d+)"


def write(root: Path, *names: str) -> str:
    """Write files without content, each another file; return the folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def read(root: str | Path, **arguments: object) -> ImageFolder:
    return reidx.build("dataset", {"type": "ImageFolder", "root": str(root), **arguments}, where="data")


def shown(data: ImageFolder, split: str = "train") -> list[tuple[str, int, int]]:
    part = getattr(data, split)
    ids = [-1] * len(part) if part.ids is None else part.ids.tolist()
    return list(zip([os.path.relpath(path, data.root) for path in part.paths], ids, part.cameras.tolist()))


# ---- identities


@pytest.mark.parametrize("names", [("b.jpg", "a.PNG"), ("x/b.jpg", "x/y/z/a.png", "c.webp")])
def test_folder_without_identities_is_train_only(tmp_path, names):
    data = read(write(tmp_path / "photos", *names, "notes.txt", ".DS_Store"))
    assert [name for name, *_ in shown(data)] == sorted(names)
    assert data.train.ids is None and (data.train.cameras == -1).all()
    assert (len(data.query), len(data.gallery), data.name) == (0, 0, "photos")
    assert data.notes() == [f"{tmp_path / 'photos'}: passed over 1 files of other formats (.txt)"]
    assert data.card()["train"] == {"images": len(names), "ids": 0, "cameras": 0}


def test_identities_by_folder_are_numbered_in_order(tmp_path):
    data = read(write(tmp_path, "bob/1.jpg", "alice/1.jpg", "alice/in/2.jpg", "Zoë/1.jpg"), ids="folder")
    assert shown(data) == [("Zoë/1.jpg", 0, -1), ("alice/1.jpg", 1, -1), ("alice/in/2.jpg", 1, -1), ("bob/1.jpg", 2, -1)]
    assert data.numbered == {"ids": ("Zoë", "alice", "bob")}
    data = read(write(tmp_path / "numbers", "7/1.jpg", "30/1.jpg"), ids="folder")
    assert shown(data) == [("30/1.jpg", 30, -1), ("7/1.jpg", 7, -1)] and data.numbered == {}


def test_pattern_reads_name_or_path(tmp_path):
    root = write(tmp_path / "2024_c3", "9_c9/0002_c1_a.jpg", "9_c9/0010_c2_b.jpg")
    assert shown(read(root, pattern=NAMES)) == [("9_c9/0002_c1_a.jpg", 2, 1), ("9_c9/0010_c2_b.jpg", 10, 2)]
    data = read(root, pattern=r"(?P<camid>[^/]+)/(?P<pid>\d+)_c\d_(?P<outfit>\w)?")
    assert [(who, camera) for _, who, camera in shown(data)] == [(2, 0), (10, 0)]
    assert data.train.columns["outfit"].tolist() == [0, 1]
    assert data.numbered == {"cameras": ("9_c9",), "outfit": ("a", "b")}
    spec = {"type": "ImageFolder", "root": "x"}
    assert contract("dataset", {**spec, "pattern": r"(?P<pid>\d)(?P<outfit>\w)"}).columns == {"outfit"}
    assert contract("dataset", {**spec, "pattern": "("}).columns == frozenset()


def test_cameras_by_pattern_and_identities_by_folder(tmp_path):
    data = read(write(tmp_path, "ann/c2_1.jpg", "bo/c1_1.jpg"), ids="folder", pattern=r"c(?P<camid>\d)")
    assert shown(data) == [("ann/c2_1.jpg", 0, 2), ("bo/c1_1.jpg", 1, 1)]


def test_names_are_numbered_over_all_splits(tmp_path):
    data = read(write(tmp_path, "train/b/1.jpg", "query/c/1.jpg", "gallery/a/1.jpg", "gallery/c/2.jpg"), ids="folder")
    assert [shown(data, split) for split in data.splits] == [
        [("train/b/1.jpg", 1, -1)],
        [("query/c/1.jpg", 2, -1)],
        [("gallery/a/1.jpg", 0, -1), ("gallery/c/2.jpg", 2, -1)],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": NAMES}, r"4 of 5 images do not match the pattern .*: 'a\.jpg', 'b\.jpg', 'c\.jpg', …\. Correct"),
        ({"ids": "folder"}, r"4 of 5 images lie in no sub-folder: 'a\.jpg', .*Move them into a folder of their identity"),
    ],
)  # fmt: skip
def test_unmatched_images_are_refused_or_counted(tmp_path, arguments, message):
    root = write(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "7/3_c1.jpg")
    with pytest.raises(DataError, match=message):
        read(root, **arguments)
    data = read(root, skip_unmatched=True, **arguments)
    assert [name for name, *_ in shown(data)] == ["7/3_c1.jpg"] and list(data.dropped.values()) == [4]
    assert data.notes()[0].startswith("left out: 4 images that ")
    with pytest.raises(DataError, match="2 of 2 images"):
        read(write(tmp_path / "other", "a.jpg", "b.jpg"), skip_unmatched=True, **arguments)


def test_optional_group_that_is_empty_is_no_match(tmp_path):
    with pytest.raises(DataError, match="1 of 2 images do not match"):
        read(write(tmp_path, "1_c.jpg", "1_c2.jpg"), pattern=r"(?P<pid>\d)_c(?P<camid>\d)?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": "(?P<pid>"}, r"ImageFolder \(data\): pattern is no regular expression: .*position"),
        ({"pattern": r"\d+"}, "has no named group"),
        ({"pattern": r"(?P<pid>\d)", "ids": "folder"}, "the identity is given twice"),
        ({"test": 1.5}, "test is 1.5; it is the share of the identities"),
        ({"ids": "folders"}, "'ids' is 'folders'"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        read(write(tmp_path, "a.jpg"), **arguments)


def test_wrong_numbers_name_their_image(tmp_path):
    cases = {
        "beyond": (f"{2**63}_c1.jpg", r"beyond/9223372036854775808_c1\.jpg: pid is 9223372036854775808; the largest possible"),
        "twice": ("007_c1.jpg", r"pid is '7', but .*007_c1\.jpg writes that number '007'\. Write it in one way"),
    }
    for folder, (name, message) in cases.items():
        with pytest.raises(DataError, match=message):
            read(write(tmp_path / folder, name, "7_c1.jpg"), pattern=NAMES)
    with pytest.raises(DataError, match="pid is '-1'; it must be a whole number from 0, a name, or empty"):
        read(write(tmp_path / "junk", "-1_c1.jpg", "7_c1.jpg"), pattern=r"(?P<pid>-?\d+)")
    data = read(write(tmp_path / "mixed", "001A.jpg", "002.jpg", "003.jpg"), pattern=r"(?P<pid>\w+)")
    assert data.train.ids.tolist() == [0, 1, 2]
    path = tmp_path / "mixed" / "001A.jpg"
    assert data.notes() == [f"pid has 1 names, such as '001A' ({path}), and 2 whole numbers; all are read as names"]


# ---- splits


def test_test_folders_need_each_other(tmp_path):
    with pytest.raises(DataError, match="has a folder query, but no folder gallery; retrieval needs both"):
        read(write(tmp_path / "a", "query/1.jpg"))
    with pytest.raises(DataError, match="so no test can be drawn"):
        read(write(tmp_path / "b", "query/1/a.jpg", "gallery/1/b.jpg"), ids="folder", test=0.5)
    data = read(write(tmp_path / "c", "query/1/a.jpg", "gallery/1/b.jpg"), ids="folder")
    assert (len(data.train), len(data.query), len(data.gallery)) == (0, 1, 1)


def test_images_outside_the_splits_are_reported(tmp_path):
    data = read(write(tmp_path, "train/1.jpg", "test/2.jpg", "3.jpg", "README.md"))
    assert data.notes() == [f"{tmp_path}: only the folders train are read, not '3.jpg', 'test'"]


def people(root: Path, count: int = 10, cameras: int = 3, images: int = 3) -> str:
    names = (f"{p}_c{c}_{i}.jpg" for p in range(count) for c in range(cameras) for i in range(images))
    return write(root, *names)


@pytest.mark.parametrize(("share", "tested"), [(0.5, 5), (0.04, 1), (1.0, 10)])
def test_drawn_test_has_one_query_by_camera(tmp_path, share, tested):
    data = read(people(tmp_path), pattern=NAMES, test=share)
    who = set(data.query.ids.tolist())
    assert len(who) == tested and who == set(data.gallery.ids.tolist())
    assert not len(data.train) or not who & set(data.train.ids.tolist())
    assert Counter(zip(data.query.ids.tolist(), data.query.cameras.tolist())) == {(p, c): 1 for p in who for c in range(3)}
    paths = [*data.train.paths, *data.query.paths, *data.gallery.paths]
    assert len(paths) == len(set(paths)) == 90


def test_draw_depends_on_names_and_seed_alone(tmp_path):
    first = fingerprint(read(people(tmp_path / "a"), pattern=NAMES, test=0.5))
    assert first == fingerprint(read(people(tmp_path / "b" / "c"), pattern=NAMES, test=0.5))
    assert len({str(fingerprint(read(tmp_path / "a", pattern=NAMES, test=0.5, seed=seed))) for seed in range(5)}) == 5
    ids, cameras, names = np.repeat(np.arange(4), 4), np.tile([0, 0, 1, 1], 4), [f"{i}.jpg" for i in range(16)]
    forth = draw_test(ids, cameras, names, 0.5, 3)
    assert draw_test(ids[::-1], cameras[::-1], names[::-1], 0.5, 3)[::-1].tolist() == forth.tolist()
    # no library may change this draw: another one would be another benchmark
    assert np.flatnonzero(forth == "query").tolist() == DRAWN


DRAWN = [0, 2, 5, 6]


def test_every_drawn_query_has_a_match():
    rng = np.random.default_rng(0)
    for seed in range(30):
        count = int(rng.integers(1, 40))
        ids, cameras = rng.integers(0, 6, count), rng.integers(-1 if seed % 2 else 0, 3, count)
        split = draw_test(ids, cameras, list(map(str, range(count))), 0.7, seed)
        for place in np.flatnonzero(split == "query"):
            others = (split == "gallery") & (ids == ids[place]) & ((cameras != cameras[place]) | (cameras < 0))
            assert others.any()
    assert sorted(draw_test(np.zeros(2, int), np.array([0, 1]), ["a", "b"], 1.0, 0)) == ["gallery", "query"]
    assert draw_test(np.zeros(3, int), np.full(3, -1), list("abc"), 1.0, 0).tolist().count("query") == 1
    assert (draw_test(np.zeros(3, int), np.full(3, 5), list("abc"), 1.0, 0) == "gallery").all()  # one camera has no match


def test_drawing_a_test_needs_identities(tmp_path):
    with pytest.raises(DataError, match="test draws identities, but none are known"):
        read(write(tmp_path, "a.jpg"), test=0.5)


# ---- folders and links


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=rf"There is no folder {re.escape(str(tmp_path / 'no'))}\. Set root"):
        read(tmp_path / "no")
    with pytest.raises(DataError, match=r"has no images \(.*passed over 1 files of other formats \(\.gif\)\)"):
        read(write(tmp_path / "a", "a.gif"))


def test_links_to_folders_are_followed_once(tmp_path):
    root = Path(write(tmp_path / "in", "z/1.jpg"))
    write(tmp_path / "out", "2.jpg")
    (root / "a").symlink_to("z")  # listed before its target, but read after it
    (root / "z" / "up").symlink_to("..")
    (root / "far").symlink_to(tmp_path / "out")
    (root / "self").symlink_to("self")
    data = read(root)
    assert [name for name, *_ in shown(data)] == ["far/2.jpg", "z/1.jpg"]
    assert data.notes() == [
        f"{root}: passed over 2 links to folders that are read already; 1 files of other formats (without a suffix)"
    ]


def test_repeated_and_broken_files_are_refused(tmp_path):
    root = Path(write(tmp_path / "a", "1.jpg"))
    os.link(root / "1.jpg", root / "2.jpg")
    with pytest.raises(DataError, match=r"2\.jpg is the same file as .*1\.jpg, in train too\. Remove one of them"):
        read(root)
    (root / "2.jpg").unlink()
    (root / "3.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(DataError, match=r"3\.jpg is no file: a broken link, or a pipe"):
        read(root)
    root = Path(write(tmp_path / "b", "train/1.jpg", "query/2.jpg", "gallery/3.jpg"))
    (root / "gallery" / "4.jpg").symlink_to("../train/1.jpg")
    assert read(root).notes() == ["1 training images are query or gallery images, too"]


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    root = write(tmp_path, "a/1.jpg", "b/1.jpg")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/b cannot be read: Permission denied\. Make the folder readable, or move it away"):
        read(root)


def test_hidden_folders_are_counted(tmp_path):
    found = images_below(Path(write(tmp_path, "a.jpg", ".thumbnails/a.jpg", ".thumbnails/deep/b.png", "x/.c.jpg")))
    assert found.names == ["a.jpg"] and found.passed_over == {"hidden images": 3}
