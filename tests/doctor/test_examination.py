"""The doctor: recognition of every miniature, and each fault that is put into one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reidx.doctor.examination import examine
from reidx.doctor.recognition import recognise
from reidx.errors import DataError
from reidx.testing.miniatures import MINIATURES, Miniature
from reidx.testing.miniatures.base import draw

BY_NAME = {miniature.name: miniature for miniature in MINIATURES}
PUBLISHED = [m for m in MINIATURES if m.name not in ("ImageFolder",)]


def market(folder: Path) -> Path:
    """Draw a miniature of Market-1501 and return its own folder."""
    BY_NAME["Market-1501"].at(folder)
    return folder / "Market-1501-v15.09.15"


def found(folder: Path, severity: str, quick: bool = False) -> dict[str, list[str]]:
    """Messages by check, without the counts that a miniature never has."""
    report = examine(folder, quick=quick)
    messages: dict[str, list[str]] = {}
    for finding in report.of(severity):
        if finding.check != "counts" and not finding.message.startswith("no image is of camera"):
            messages.setdefault(finding.check, []).append(finding.message)
    return messages


@pytest.mark.parametrize("miniature", PUBLISHED, ids=[m.name for m in PUBLISHED])
def test_named_miniature_is_read_without_faults(miniature: Miniature, tmp_path):
    miniature.at(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    reading = recognise(tmp_path, miniature.spec["type"])
    faults = [fault for fault in reading.faults if "do not reveal its version" not in fault.message]
    assert faults == [] and {name: len(split) for name, split in reading.splits().items()}
    assert sorted(tmp_path.rglob("*")) == before  # an examination writes nothing


@pytest.mark.parametrize(
    "name", ["Market-1501", "DukeMTMC-reID", "VeRi-776", "MSMT17 V1", "MSMT17 V2", "SYSU-MM01", "RegDB", "LTCC", "PRCC"]
)
def test_set_is_recognised_by_layout_and_names(name, tmp_path):
    BY_NAME[name].at(tmp_path)
    assert recognise(tmp_path).component == BY_NAME[name].spec["type"]


def test_personx_is_told_from_market_by_cameras(tmp_path):
    BY_NAME["PersonX"].at(tmp_path / "renamed")
    for path in (tmp_path / "renamed" / "PersonX").iterdir():
        shutil.move(path, tmp_path / "renamed" / path.name)
    assert recognise(tmp_path / "renamed").component == "PersonX"


def repacked(folder: Path, learnt: int, tested: int) -> Path:
    """Draw a copy of CUHK03 in Market-1501's grammar: an image of each person under each camera."""
    for person in range(learnt + tested):
        for camera in (1, 2):
            part = "bounding_box_train" if person < learnt else "query" if camera == 1 else "bounding_box_test"
            path = folder / part / f"{person:04}_c{camera}_01.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


def test_repacked_copies_of_cuhk03_are_told_apart(tmp_path):
    """By the published numbers of people: 767 and 700, or 1,367 and 100 with low resolution. With others, both are named."""
    assert recognise(repacked(tmp_path / "new", 767, 700)).component == "CUHK03"
    low = recognise(repacked(tmp_path / "low", 1_367, 100))
    assert (low.component, low.spec["images"], low.others) == ("MLRCUHK03", "repacked", ())
    few = examine(repacked(tmp_path / "few", 9, 5), quick=True)
    said = [finding.message for finding in few.of("warning") if finding.check == "recognition"]
    assert len(said) == 1 and {"CUHK03", "MLRCUHK03"} <= {few.component, *said[0].replace(";", "").split()}


@pytest.mark.parametrize("name", ["Occluded-Duke", "MSMT17 V1", "RegDB", "VehicleID", "VERI-Wild"])
def test_every_missing_image_of_a_list_is_reported(name, tmp_path):
    BY_NAME[name].at(tmp_path)
    learnt = recognise(tmp_path, BY_NAME[name].spec["type"]).splits()["train"].paths
    for path in learnt[:2]:
        Path(path).unlink()
    faults = recognise(tmp_path, BY_NAME[name].spec["type"]).faults
    assert [fault.place for fault in faults if "there is no file" in fault.message] == learnt[:2]


def test_every_fault_of_a_table_is_reported(tmp_path):
    for number in range(4):
        draw(tmp_path / f"{number}.png", number)
    (tmp_path / "mine.csv").write_text(
        "path,pid,camid,split\n0.png,1,0,train\nnone.png,1,0,train\n1.png,2,0,training\n1.png,2,train\n"
        "2.png,,0,query\n2.png,3,0,query\n3.png,3,1,gallery\n3.png,3,1,gallery\n",
        encoding="utf-8",
    )
    report = examine(tmp_path / "mine.csv")
    (refused,) = [finding for finding in report.of("error") if finding.check == "names"]
    assert [(place.path.rpartition(", ")[2], place.note.partition(";")[0]) for place in refused.places] == [
        ("line 4", "split is 'training'"),
        ("line 5", "3 values, but line 1 names 4 columns."),
        ("line 6", "a query image needs a pid."),
        ("line 3", f"there is no file {tmp_path}/none.png."),
        ("line 9", f"{tmp_path}/3.png is the image of line 8, in gallery too. Drop one of them."),
    ]
    assert report.files == 3


def test_every_fault_of_an_image_folder_is_reported(tmp_path):
    for name in ("1_c0.png", "2_c1.png", "x.png", "y.png"):
        draw(tmp_path / "photos" / name, 1)
    (tmp_path / "photos" / "3_c0.png").symlink_to(tmp_path / "photos" / "1_c0.png")
    (tmp_path / "photos" / "4_c0.png").symlink_to(tmp_path / "nowhere.png")
    report = examine(tmp_path / "photos", r"{type: ImageFolder, pattern: '(?P<pid>\d+)_c(?P<camid>\d)'}")
    (refused,) = [finding for finding in report.of("error") if finding.check == "names"]
    assert [Path(place.path).name for place in refused.places] == ["x.png", "y.png", "3_c0.png", "4_c0.png"]
    assert report.files == 2


def test_folder_without_a_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="not laid out as one of the published data sets"):
        recognise(tmp_path)
    shutil.rmtree(market(tmp_path) / "bounding_box_test")
    with pytest.raises(DataError, match=r"The nearest: .* is incomplete: it lacks bounding_box_test"):
        recognise(tmp_path)
    with pytest.raises(DataError, match=r"There is no .*nowhere"):
        recognise(tmp_path / "nowhere")


def test_two_sets_below_a_folder_are_named(tmp_path):
    market(tmp_path), BY_NAME["LTCC"].at(tmp_path)
    with pytest.raises(DataError, match=r"several data sets below .*LTCC_ReID, .*Market-1501-v15\.09\.15\. Give the folder"):
        recognise(tmp_path)


def test_whole_miniature_has_no_fault(tmp_path):
    folder = market(tmp_path)
    assert found(folder, "warning") == {} and found(folder, "error") == {}
    facts = [finding.message for finding in examine(folder).of("fact")]
    assert "left out: 1 junk" in facts and "all images have 48x24 pixels (height x width)" in facts
    assert "each of the 3 queries has a match under protocol Market1501" in facts


def test_counts_are_compared_with_the_published(tmp_path):
    errors = [finding.message for finding in examine(market(tmp_path)).of("error")]
    assert errors[0] == "train: 24 images, 4 identities, 3 cameras; the published data set has 12,936 images, 751 identities"


def empty(folder: Path) -> None:
    (folder / "query" / "0005_c1s1_000009_00.jpg").write_bytes(b"")


def cut(folder: Path) -> None:
    path = folder / "query" / "0005_c1s1_000009_00.jpg"
    path.write_bytes(path.read_bytes()[:400])


def misname(folder: Path) -> None:
    draw(folder / "query" / "person.jpg", 1)


def wrong_camera(folder: Path) -> None:
    draw(folder / "query" / "0005_c7s1_000009_00.jpg", 1)


def leak(folder: Path) -> None:
    shutil.copy(folder / "bounding_box_train" / "0001_c1s1_000000_00.jpg", folder / "query" / "0007_c1s1_000077_00.jpg")


def shared_person(folder: Path) -> None:
    draw(folder / "bounding_box_test" / "0001_c1s1_000077_00.jpg", 77)


@pytest.mark.parametrize(
    ("harm", "check", "message"),
    [
        (empty, "images", "1 image cannot be read"),
        (cut, "images", "1 image cannot be read"),
        (misname, "names", "Market1501 refuses 1 file or line"),
        (wrong_camera, "names", "Market1501 refuses 1 file or line"),
        (leak, "leak", "1 training image with a copy in the test"),
        (shared_person, "identities", "1 training identity in the gallery, too (1 image)"),
    ],
)
def test_fault_is_found_as_error(harm: Callable[[Path], None], check, message, tmp_path):
    folder = market(tmp_path)
    harm(folder)
    assert found(folder, "error") == {check: [message]}


def test_query_without_match_is_found(tmp_path):
    folder = market(tmp_path)
    for path in (folder / "bounding_box_test").glob("0005_c[26]*"):
        path.unlink()
    assert found(folder, "warning") == {"queries": ["1 of 3 queries have no match that counts under protocol Market1501"]}
    for path in (folder / "bounding_box_test").glob("000?_c[26]*"):
        path.unlink()
    assert found(folder, "error") == {"queries": ["3 of 3 queries have no match that counts under protocol Market1501"]}


def test_suspicious_files_are_warnings(tmp_path):
    folder = market(tmp_path)
    train = folder / "bounding_box_train"
    (train / "0001_c1s1_000000_00.jpg").rename(train / "0001_c1s1_000000_00.JPG")
    draw(train / "0001_c1s1_000077_00.jpg", 1, size=(60, 8))
    shutil.copy(train / "0002_c1s1_000000_00.jpg", train / "0002_c1s1_000077_00.jpg")
    shutil.copy(train / "0003_c1s1_000000_00.jpg", train / "0004_c1s1_000077_00.jpg")
    assert found(folder, "warning") == {
        "duplicates": ["1 image with a copy under another identity", "2 images with a copy in the same split"],
        "sizes": ["1 of 55 images not of the usual 48x24 pixels", "1 image with a side shorter than 16 pixels"],
        "suffixes": ["1 image ending in .JPG, the others in .jpg; other code may skip them"],
    }


def test_camera_with_a_single_image_is_found(tmp_path):
    folder = market(tmp_path)
    draw(folder / "bounding_box_train" / "0001_c4s1_000077_00.jpg", 1, 4)
    assert found(folder, "warning")["cameras"] == ["camera 4 has a single image"]


def test_quick_examination_decodes_nothing(tmp_path):
    folder = market(tmp_path)
    cut(folder)
    assert found(folder, "error", quick=True) == {}
    empty(folder)
    assert found(folder, "error", quick=True) == {"images": ["1 image cannot be read"]}


def test_link_in_another_split_is_no_copy(tmp_path):
    folder = market(tmp_path)
    (folder / "query" / "0005_c1s1_000077_00.jpg").symlink_to(folder / "bounding_box_test" / "0005_c1s1_000000_00.jpg")
    assert "duplicates" not in found(folder, "warning")


def test_numbers_of_separate_lists_are_no_overlap(tmp_path):
    BY_NAME["MSMT17 V1"].at(tmp_path)
    report = examine(tmp_path)
    assert [finding for finding in report.findings if finding.check == "identities" and finding.severity == "error"] == []
    assert "version: V1" in [finding.message for finding in report.of("fact")]


def test_every_faulty_line_of_a_list_is_reported(tmp_path):
    BY_NAME["MSMT17 V1"].at(tmp_path)
    table = tmp_path / "MSMT17_V1" / "list_query.txt"
    table.write_text(table.read_text() + "nonsense\n0000/0000_000_77_0303morning_0015_0.jpg 0\n0009/0009_000_01_x_0.jpg 9\n")
    (refused,) = [finding for finding in examine(tmp_path).of("error") if finding.check == "names"]
    assert refused.message == "MSMT17 refuses 3 files or lines"
    assert [place.note.split(";")[0].partition(" ")[0] for place in refused.places] != []


def test_table_is_examined(tmp_path):
    for person in (1, 2):
        for camera in (1, 2):
            draw(tmp_path / f"{person}_{camera}.png", person, camera)
    rows = [f"{p}_{c}.png,{p},{c},{'query' if c == 1 else 'gallery'}" for p in (1, 2) for c in (1, 2)]
    (tmp_path / "mine.csv").write_text("\n".join(["path,pid,camid,split", *rows]) + "\n")
    report = examine(tmp_path / "mine.csv")
    assert report.component == "CSV" and report.files == 4 and report.of("error") == []


def test_folder_of_own_images_is_examined(tmp_path):
    BY_NAME["ImageFolder"].at(tmp_path)
    report = examine(tmp_path, "{type: ImageFolder, ids: folder}")
    assert report.component == "ImageFolder" and report.files > 0 and report.of("error") == []
