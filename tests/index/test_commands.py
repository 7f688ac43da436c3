"""The commands reidx index and reidx search, on drawn images and a network of mean colours."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from reidx.cli.main import main
from reidx.index import Index
from reidx.inference.embeddings import Embeddings
from reidx.inference.reid import ReID
from reidx.testing.mean_colours import MeanColours, draw_images


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(ReID, "load", lambda source: MeanColours())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return draw_images(tmp_path / "images", 12)


def table(folder: Path, images: list[str], rows: slice = slice(None)) -> str:
    lines = [f"{path},{n % 3},{n % 2},2026-05-01T10:{n:02d}" for n, path in enumerate(images)]
    (folder / "table.csv").write_text("\n".join(["path,id,camera,time", *lines[rows]]))
    return str(folder / "table.csv")


def test_folder_is_indexed_and_searched(images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "build", "gallery", "images", "--weights", "net"]) == 0
    assert "gallery: 12 images, exact, 0.0 MB" in capsys.readouterr().out
    assert main(["search", "gallery", images[4], "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    first = next(line for line in lines if line.startswith("1 "))
    assert first.split()[1] == "1.0000" and "camera" not in lines[2]
    assert Index.open("gallery").weights == str(Path("net").absolute())


def test_table_gives_cameras_and_times(images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["index", "build", "gallery", table(tmp_path, images), "--weights", "net"])
    words = ["--camera", "1", "--after", "2026-05-01T10:03", "--before", "2026-05-01T10:08", "--out", "found.json"]
    assert main(["search", "gallery", images[0], images[1], "-k", "9", *words]) == 0
    found = json.loads(Path("found.json").read_text())
    assert [(one["query"], one["rank"]) for one in found] == [(images[q], rank) for q in (0, 1) for rank in (1, 2, 3)]
    assert {one["path"] for one in found} == {images[3], images[5], images[7]}
    assert {one["time"] for one in found} == {f"2026-05-01T10:0{n}:00" for n in (3, 5, 7)}
    assert main(["search", "gallery", "images", "--rerank", "10", "--out", "found.csv"]) == 0
    rows = list(csv.DictReader(Path("found.csv").read_text().splitlines()))
    assert len(rows) == 12 * 10 and rows[0]["camera"] == "0" and rows[0]["id"] == "0"
    capsys.readouterr()
    assert main(["index", "info", "gallery", "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "0: 6, 1: 6" in shown and "2026-05-01T10:00:00 to 2026-05-01T10:11:00" in shown and "checksums" in shown


def test_images_are_added_once_and_removed(images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["index", "build", "gallery", table(tmp_path, images, slice(8)), "--weights", "net"])
    assert main(["index", "add", "gallery", table(tmp_path, images)]) == 0
    assert "4 images added" in capsys.readouterr().out
    assert main(["index", "add", "gallery", table(tmp_path, images)]) == 0
    assert "0 images added" in capsys.readouterr().out
    assert main(["index", "remove", "gallery", images[0], "images/001.png"]) == 0
    assert list(Index.open("gallery").rows.paths) == images[2:]
    assert main(["index", "remove", "gallery", "images/000.png"]) == 1
    assert "has no image" in capsys.readouterr().err
    assert main(["index", "remove", "gallery", "images"]) == 1
    assert "Delete the folder" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_embeddings_file_is_indexed(suffix: str, images: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    features = np.concatenate([rows.numpy() for _, rows in MeanColours().stream(images)])
    Embeddings(images, features, None, np.arange(12), "c0105", "mean colours").write(f"found.{suffix}")
    assert main(["index", "build", "gallery", f"found.{suffix}", "--kind", "hnsw"]) == 0
    assert "hnsw, recall@10 1.000 (measured on 12 images)" in capsys.readouterr().out
    assert main(["search", "gallery", images[0]]) == 1
    assert "give its network with --weights" in capsys.readouterr().err
    assert main(["search", "gallery", images[0], "--weights", "net", "--camera", "5"]) == 0
    assert "005.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "build", "gallery", "images"], "name the network with --weights"),
        (["index", "build", "gallery", "nothing", "--weights", "net"], "There is no nothing"),
        (["index", "build", "gallery", "bad.csv", "--weights", "net"], "line 2: it has another number"),
        (["index", "build", "gallery", "columns.csv", "--weights", "net"], "'colour' is unknown"),
        (["index", "build", "images", "images", "--weights", "net"], "has other files in it"),
        (["search", "gallery", "images"], "There is no index gallery"),
        (["index", "info", "images"], "is no index"),
    ],
)
def test_bad_input_is_one_message(
    words: list[str], message: str, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.csv").write_text("path,camera\na.png\n")
    Path("columns.csv").write_text("path,colour\na.png,red\n")
    assert main(words) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error:") and error.count("\n") == 1


def test_index_of_another_network_is_refused(
    images: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["index", "build", "gallery", "images", "--weights", "net"])
    monkeypatch.setattr(MeanColours, "digest", "other")
    draw_images(Path("more"), 2)
    for words in (["search", "gallery", images[0]], ["index", "add", "gallery", "more"], ["serve", "gallery", "--port", "0"]):
        assert main(words) == 1
        assert "another network" in capsys.readouterr().err


def test_searches_with_bad_filters_are_refused(images: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["index", "build", "gallery", table(tmp_path, images), "--weights", "net"])
    for words, message in (
        (["--camera", "9"], "It has cameras 0, 1"),
        (["--after", "5"], "5 is one of the numbers"),
        (["--before", "yesterday"], "is no time"),
        (["-k", "13"], "from 1 to the 12 images"),
        (["--out", "a.txt"], ".csv or .json"),
    ):
        assert main(["search", "gallery", images[0], *words]) == 1
        assert message in capsys.readouterr().err
    Path("broken.png").write_bytes(b"\x89PNG broken")
    assert main(["search", "gallery", "broken.png"]) == 1
    assert "cannot be read as an image" in capsys.readouterr().err
