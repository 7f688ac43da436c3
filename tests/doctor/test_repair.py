"""Repair by the doctor: files are moved aside or renamed, and none is lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from reidx.cli.main import main
from reidx.doctor.examination import examine
from reidx.doctor.repair import ASIDE, LIST, carry_out, plan
from reidx.errors import DataError
from reidx.testing.miniatures import MINIATURES
from reidx.testing.miniatures.base import draw

BY_NAME = {miniature.name: miniature for miniature in MINIATURES}


@pytest.fixture
def harmed(tmp_path: Path) -> Path:
    """A miniature with an empty image, a misnamed one and a suffix in capitals."""
    BY_NAME["Market-1501"].at(tmp_path)
    folder = tmp_path / "Market-1501-v15.09.15"
    (folder / "query" / "0005_c1s1_000009_00.jpg").write_bytes(b"")
    draw(folder / "query" / "person.jpg", 1)
    train = folder / "bounding_box_train"
    (train / "0001_c1s1_000000_00.jpg").rename(train / "0001_c1s1_000000_00.JPG")
    return folder


def contents(top: Path) -> dict[str, bytes]:
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_dry_run_changes_nothing(harmed, capsys):
    before = contents(harmed.parent)
    assert main(["data", "doctor", str(harmed), "--fix", "--dry-run"]) == 1
    assert contents(harmed.parent) == before
    assert "query/person.jpg ->" in capsys.readouterr().out


def test_fix_moves_and_renames_without_loss(harmed):
    before = contents(harmed.parent)
    done = list(carry_out(plan(examine(harmed)), str(harmed)))
    aside = harmed.with_name(harmed.name + ASIDE)
    assert sorted(contents(aside)) == [LIST, "query/0005_c1s1_000009_00.jpg", "query/person.jpg"]
    assert (harmed / "bounding_box_train" / "0001_c1s1_000000_00.jpg").is_file()
    after = contents(harmed.parent)
    assert sorted(after.values()) == sorted([*before.values(), (aside / LIST).read_bytes()])
    with (aside / LIST).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["from"], row["to"]) for row in rows] == [(str(step.source), str(step.target)) for step in done]
    checks = {finding.check for finding in examine(harmed).findings if finding.severity != "fact"}
    assert not {"names", "images", "suffixes"} & checks


def test_command_examines_again_after_the_repair(harmed, tmp_path, capsys):
    """The second report, and the JSON file, are those of the repaired folder."""
    main(["data", "doctor", str(harmed), "--fix", "--json", str(tmp_path / "found.json")])
    first, again = capsys.readouterr().out.split("after the repair")
    assert "1 image cannot be read" in first and "refuses 1 file" in first
    assert "cannot be read" not in again and "refuses" not in again and "images examined" in again
    checks = {one["check"] for one in json.loads((tmp_path / "found.json").read_text())["errors"]}
    assert not {"names", "images"} & checks


def test_file_in_a_missing_folder_is_refused_first(harmed, tmp_path, capsys):
    assert main(["data", "doctor", str(harmed), "--json", str(tmp_path / "none" / "found.json")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_second_fix_extends_the_list(harmed):
    list(carry_out(plan(examine(harmed)), str(harmed)))
    draw(harmed / "query" / "another.jpg", 1)
    list(carry_out(plan(examine(harmed)), str(harmed)))
    lines = (harmed.with_name(harmed.name + ASIDE) / LIST).read_text().splitlines()
    assert len(lines) == 5 and lines[0] == "from,to,reason" and "another.jpg" in lines[4]


def test_existing_file_is_never_replaced(harmed):
    target = harmed.with_name(harmed.name + ASIDE) / "query" / "person.jpg"
    draw(target, 5)
    before = target.read_bytes()
    step = next(step for step in plan(examine(harmed)) if step.source.name == "person.jpg")
    assert step.refusal == f"there is a file {target}"
    list(carry_out(plan(examine(harmed)), str(harmed)))
    assert target.read_bytes() == before and (harmed / "query" / "person.jpg").is_file()


def test_listed_image_stays_in_place(tmp_path):
    BY_NAME["MSMT17 V1"].at(tmp_path)
    path = next((tmp_path / "MSMT17_V1" / "train").rglob("*.jpg"))
    path.write_bytes(b"")
    (step,) = plan(examine(tmp_path))
    assert step.source == path and "lists it: restore the file" in step.refusal
    assert list(carry_out([step], str(tmp_path / "MSMT17_V1"))) == [] and path.is_file()


def test_listed_image_gets_the_suffix_of_the_list(tmp_path):
    BY_NAME["MSMT17 V1"].at(tmp_path)
    path = next((tmp_path / "MSMT17_V1" / "train").rglob("*.jpg"))
    path.rename(path.with_suffix(".JPG"))
    report = examine(tmp_path)
    list(carry_out(plan(report), report.path))
    assert path.is_file() and not [f for f in examine(tmp_path).of("error") if f.check == "names"]


def test_failed_move_is_reported(harmed, monkeypatch):
    def refuse(source: object, target: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(DataError, match=r"cannot be moved to .*: Permission denied"):
        list(carry_out(plan(examine(harmed)), str(harmed)))
