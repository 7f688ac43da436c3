"""Occluded-Duke: lists over DukeMTMC-reID's folders, sorted folders, error messages; the published lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from reidx.data.datasets import OccludedDuke, occluded_duke
from reidx.data.datasets.lists import read_list
from reidx.errors import DataError
from reidx.testing.miniatures.occluded_duke import DUKE, FOLDERS, LISTED, name_of, write

ROOT = Path(__file__).parents[2]


def write_at(base: Path, lists: str, images: str) -> Path:
    """Write the miniature and move its two folders."""
    base.mkdir(parents=True, exist_ok=True)
    write(base)
    for folder, place in (("DukeMTMC-reID", images), ("Occluded_Duke", lists)):
        if place != folder:
            (base / place).parent.mkdir(parents=True, exist_ok=True)
            (base / folder).rename(base / place)
    return base


def write_sorted(base: Path) -> Path:
    for split, images in LISTED.items():
        (base / FOLDERS[split]).mkdir(parents=True)
        for image in images:
            (base / FOLDERS[split] / name_of(*image)).touch()
    return base


def names(data: OccludedDuke) -> dict[str, list[str]]:
    return {split: [Path(path).name for path in getattr(data, split).paths] for split in FOLDERS}


EXPECTED = {split: [name_of(*image) for image in images] for split, images in LISTED.items()}


@pytest.mark.parametrize(
    ("lists", "images", "root"),
    [
        ("Occluded_Duke", "DukeMTMC-reID", "."),
        ("Occluded_Duke", "DukeMTMC-reID", "Occluded_Duke"),
        ("Occluded_Duke", "dukemtmc-reid/DukeMTMC-reID", "Occluded_Duke"),
        ("dukemtmcreid/Occluded_Duke", "dukemtmcreid/DukeMTMC-reID", "."),
        ("dukemtmcreid/Occluded_Duke", "dukemtmcreid/DukeMTMC-reID", "dukemtmcreid"),
        ("Occluded-DukeMTMC-Dataset/Occluded_Duke", "DukeMTMC-reID", "."),
        ("DukeMTMC-reID/Occluded_Duke", "DukeMTMC-reID", "DukeMTMC-reID"),
    ],
)
def test_lists_find_the_images_of_duke(tmp_path, lists, images, root):
    base = tmp_path / "0001_c2_f0"  # a folder's name is not read
    write_at(base, lists, images)
    data = OccludedDuke(str(base / root))
    assert names(data) == EXPECTED and data.card()["layout"] == "lists and their images"
    assert Path(data.root) == base / lists
    assert all(Path(path).is_file() for split in (data.train, data.query, data.gallery) for path in split.paths)


def test_images_in_no_list_are_counted(tmp_path):
    data = OccludedDuke(str(write_at(tmp_path, "Occluded_Duke", "DukeMTMC-reID")))
    left = sum(map(len, DUKE.values())) - sum(map(len, LISTED.values()))
    assert data.dropped == {"images of DukeMTMC-reID in no list": left} and left == 6 + 1


def test_identities_and_cameras_come_from_the_names(tmp_path):
    data = OccludedDuke(str(write_at(tmp_path, "Occluded_Duke", "DukeMTMC-reID")))
    for split, images in LISTED.items():
        found = getattr(data, split)
        assert found.ids.tolist() == [person for person, _, _ in images]
        assert found.cameras.tolist() == [camera - 1 for _, camera, _ in images]
    assert data.distractors == 4  # person 6


@pytest.mark.parametrize("place", ["Occluded_Duke", "dukemtmcreid/Occluded_Duke", "."])
def test_sorted_folders_need_no_lists(tmp_path, place):
    base = write_sorted(tmp_path / place)
    data = OccludedDuke(str(tmp_path))
    assert {split: sorted(found) for split, found in names(data).items()} == {s: sorted(n) for s, n in EXPECTED.items()}
    assert (Path(data.root), data.card()["layout"]) == (base, "sorted folders")


def test_sorted_folders_are_checked_by_their_lists(tmp_path):
    base = write_sorted(tmp_path)
    for split, images in EXPECTED.items():
        (base / f"{split}.list").write_text("\r\n".join(images), encoding="utf-8")
    data = OccludedDuke(str(tmp_path))
    assert names(data) == EXPECTED and data.dropped == {"images of DukeMTMC-reID in no list": 0}
    (base / "query" / EXPECTED["query"][-1]).unlink()  # the authors' script loses the last character of an unfinished line
    with pytest.raises(DataError, match=r"query\.list, line 2: there is no file .*0005_c2_f0000004\.jpg"):
        OccludedDuke(str(tmp_path))


def test_duke_itself_is_not_taken_for_it(tmp_path, monkeypatch):
    write_sorted(tmp_path / "DukeMTMC-reID")
    monkeypatch.setattr(occluded_duke, "OF_DUKE", (len(LISTED["train"]), len(LISTED["query"])))
    with pytest.raises(DataError, match="DukeMTMC-reID holds DukeMTMC-reID as published, not sorted for Occluded-Duke"):
        OccludedDuke(str(tmp_path / "DukeMTMC-reID"))
    with pytest.raises(DataError, match="Occluded-Duke is not at"):
        OccludedDuke(str(tmp_path))


def test_lists_without_images_name_the_searched_places(tmp_path):
    write_at(tmp_path, "Occluded_Duke", "elsewhere")
    with pytest.raises(DataError, match="DukeMTMC-reID, whose images the lists of Occluded-Duke name, is not at") as error:
        OccludedDuke(str(tmp_path))
    assert str(tmp_path / "Occluded_Duke" / "DukeMTMC-reID") in str(error.value)
    assert str(tmp_path / "dukemtmc-reid" / "DukeMTMC-reID") in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0001_c9_f0000001.jpg", r"train\.list, line 2: .* looks like 0001_c2_f0046182\.jpg"),
        ("0001_c1s1_000001_00.jpg", r"train\.list, line 2: .* does not give an image"),
        ("0009_c1_f0000001.jpg", r"train\.list, line 2: there is no file .*0009_c1_f0000001\.jpg"),
        (EXPECTED["train"][0], r"train\.list, line 2: .* is in .*train\.list, line 1, too"),
    ],
)
def test_wrong_line_is_named(tmp_path, line, message):
    write_at(tmp_path, "Occluded_Duke", "DukeMTMC-reID")
    (tmp_path / "Occluded_Duke" / "train.list").write_text(f"{EXPECTED['train'][0]}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        OccludedDuke(str(tmp_path))


def test_withdrawal_is_stated_everywhere(tmp_path):
    write_at(tmp_path, "Occluded_Duke", "DukeMTMC-reID")
    config = (ROOT / "configs/data/occluded_duke.yaml").read_text(encoding="utf-8")
    pages = (ROOT / "docs/datasets.md").read_text(encoding="utf-8").splitlines()
    page = next(line for line in pages if "data/occluded_duke" in line)
    for text in (OccludedDuke.__doc__, config, page, OccludedDuke(str(tmp_path)).notes()[0]):
        assert "withdr" in text and "without their" in text


@pytest.mark.parametrize("split", list(FOLDERS))
def test_published_lists_have_their_published_counts(split):
    table = ROOT.parent / "shared" / "lists" / "occluded_duke" / f"{split}.list"
    if not table.is_file():
        pytest.skip(f"{table} is not here")
    lines = [line for _, line in read_list(table, occluded_duke.LINE, occluded_duke.EXAMPLE)]
    assert (len({line[1] for line in lines}), len({line[2] for line in lines})) == OccludedDuke.facts.counts[""][split]
    assert len(lines) == len({line[1] for line in lines}) and {line[3] for line in lines} == set("12345678")
