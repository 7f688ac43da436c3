"""Files that a loader does not read: counted on the card and reported at each start of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

import reidx
from reidx.data.datasets import MSMT17, CameraSplit, Market1501
from reidx.data.domains import Domains
from reidx.engine.experiment import test as evaluate
from reidx.errors import DataError

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def write(root: Path, names: list[str], split: str = "bounding_box_train") -> Path:
    """Write a data set in Market-1501's grammar: three images in each folder, and these files in one of them."""
    for folder in FOLDERS:
        for name in ("0002_c1_0.jpg", "0002_c2_0.jpg", "0003_c1_0.jpg"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / name).touch()
    for name in names:
        path = root / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize("name", ["0004_c1_0.JPG", "0004_c1_0.jpeg", "0004_c1_0.png", "0004_c1_0.Tiff", "0004_c1_0.webp"])
def test_suffixes_of_either_case_are_read(tmp_path, name):
    data = Market1501(str(write(tmp_path, [name])))
    assert Path(data.train.paths[-1]).name == name and data.train.ids.tolist() == [2, 2, 3, 4]
    assert data.notes() == [] and "passed over" not in data.dropped


def test_sub_folders_and_other_files_are_reported(tmp_path):
    names = ["more/0005_c1_0.jpg", "more/deep/0005_c1_1.png", "notes.txt", "pose.npy", "a.gif", ".0006_c1_0.jpg"]
    data = Market1501(str(write(tmp_path, names)))
    assert len(data.train) == 3 and data.card()["dropped"] == {"junk": 0, "background": 0, "passed over": 6}
    assert data.notes() == [
        f"{tmp_path / 'bounding_box_train'}: passed over 2 images in sub-folders (more); "
        "3 files of other formats (.gif, .npy, .txt); 1 hidden images"
    ]


def test_system_files_are_not_reported(tmp_path):
    data = Market1501(str(write(tmp_path, ["Thumbs.db", ".DS_Store", "._0002_c1_0.jpg", "desktop.ini", "empty/.keep"])))
    assert data.notes() == [] and data.card()["dropped"] == {"junk": 0, "background": 0}


def test_folder_with_only_sub_folders_is_refused(tmp_path):
    write(tmp_path, ["0009/0009_c1_0.jpg"], "query")
    for path in (tmp_path / "query").glob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match=r"has no \.jpg image\. It has 1 images in sub-folders \(0009\), which are not read\."):
        Market1501(str(tmp_path))


def test_image_in_two_formats_is_reported(tmp_path):
    data = Market1501(str(write(tmp_path, ["0002_c1_0.png"])))
    assert len(data.train) == 4
    assert data.notes() == [
        f"{tmp_path / 'bounding_box_train'}: 2 images share a name, but for the suffix, with another; all are read"
    ]


def test_junk_and_person_0_are_reported(tmp_path):
    data = Market1501(str(write(tmp_path, ["0000_c1_0.jpg", "0000_c1_1.jpg", "-1_c1_0.jpg"])))
    assert data.notes() == [
        "left out: 1 junk, 2 background",
        "0000 means background in Market-1501: give a person with that number another number",
    ]
    official = Market1501(str(write(tmp_path / "b", ["0000_c1_0.jpg", "-1_c1_0.jpg"], "bounding_box_test")))
    assert official.notes() == ["left out: 1 junk"] and official.gallery.ids.tolist() == [0, 2, 2, 3]


@pytest.mark.parametrize("digits", [str(2**63), str(2**64 - 1), "9" * 4400])
def test_too_large_number_in_name_is_refused(tmp_path, digits):
    if len(digits) < 200:  # a file name holds at most 255 bytes
        with pytest.raises(DataError, match=rf"{digits}_c1_0\.jpg: the identity is {digits}; the largest possible is"):
            Market1501(str(write(tmp_path / "a", [f"{digits}_c1_0.jpg"])))
    with pytest.raises(DataError, match=r"\.jpg: the camera is "):
        Market1501(str(write(tmp_path / "b", [f"0007_c{digits[:200]}_0.jpg"])))


def test_camera_split_passes_notes_on(tmp_path):
    write(tmp_path, ["more/0005_c1_0.jpg"])
    half = CameraSplit({"type": "Market1501", "root": str(tmp_path)}, "source", [1, 2])
    assert any("1 images in sub-folders" in note for note in half.notes())


# ---- lists


def msmt17(root: Path, **lists: list[str]) -> Path:
    images = {"train": ("0000/0000_000_01_a_0.jpg 0",), "val": ("0001/0001_000_02_a_0.jpg 1",)}
    images |= {"query": ("0000/0000_000_01_a_0.jpg 0",), "gallery": ("0000/0000_001_02_a_0.jpg 0",)}
    for name, lines in images.items():
        for line in lines:
            path = root / ("train" if name in ("train", "val") else "test") / line.split()[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (root / f"list_{name}.txt").write_text("\n".join([*lines, *lists.get(name, [])]) + "\n")
    return root


@pytest.mark.parametrize("train", ["trainval", "train"])
def test_images_in_no_list_are_reported(tmp_path, train):
    msmt17(tmp_path)
    for name in ("train/0000/0000_009_01_a_0.jpg", "test/x.png", "test/readme.txt"):
        (tmp_path / name).touch()
    data = MSMT17(str(tmp_path), train=train)
    assert data.card()["dropped"] == {"passed over": 2}
    assert data.notes() == [
        f"{tmp_path / folder}: passed over 1 images that are in no list" for folder in ("train", "test")
    ]


@pytest.mark.parametrize(("name", "line"), [("train", "0000/0000_000_01_a_0.jpg 0"), ("val", "0000/0000_000_01_a_0.jpg 5")])
def test_repeated_image_in_lists_names_both_lines(tmp_path, name, line):
    with pytest.raises(DataError) as error:
        MSMT17(str(msmt17(tmp_path, **{name: [line]})))
    assert f"list_{name}.txt, line 2: " in str(error.value) and "list_train.txt, line 1, too" in str(error.value)


def test_too_large_identity_names_its_line(tmp_path):
    root = msmt17(tmp_path)
    (root / "list_query.txt").write_text(f"0000/0000_000_01_a_0.jpg {2**64 - 1}\n")
    with pytest.raises(DataError, match=rf"list_query\.txt, line 1: the identity is {2**64 - 1}; the largest possible is"):
        MSMT17(str(root))


# ---- the report at the start


def test_each_start_reports_once(experiment, tmp_path, capsys):
    write(tmp_path / "m", ["more/0005_c1_0.jpg"])
    data = {"domains": {"target": {"type": "Market1501", "root": str(tmp_path / "m")}}, "image_size": [16, 8],
            "interpolation": "bilinear", "workers": 0, "cache_gb": 0.1}  # fmt: skip
    lines: list[str] = []
    domains = Domains(data, message=lines.append)
    assert lines == []  # a data set that is not used is not read
    domains.split("target", "train"), domains.split("target", "query")
    assert len(lines) == 1
    assert lines[0].startswith("target: ")
    assert "1 images in sub-folders" in lines[0]
    config = reidx.load_config(experiment(data={k: data[k] for k in ("domains", "image_size")}))
    with pytest.raises(DataError, match="cannot be read as an image"):  # the files are empty
        evaluate(config, progress="plain")
    assert capsys.readouterr().err.count("passed over 1 images in sub-folders (more)") == 1
