"""Clusters of a folder of images: table, embeddings and contact sheets agree with the labels."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reidx.cli.main import main
from reidx.doctor.pictures import CELL, HEADER, LEFT, MARGIN
from reidx.inference import Embeddings, ReID
from reidx.inference.clustering import by_size, cluster, distances_to_centres, draw_clusters, write_clusters


@pytest.fixture
def folder(domains_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(domains_root / "target" / "bounding_box_train", tmp_path / "images"))


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_distances_are_to_the_mean_of_the_cluster() -> None:
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 1], [0, 1], [0.2, 1], [-1, 0.1]]), dim=1)
    labels = np.array([0, 0, 1, 1, -1])
    found = distances_to_centres(features, labels)
    rows = features.double().numpy()
    for place, row in enumerate(rows):
        angles = [1 - row @ (centre / np.linalg.norm(centre)) for centre in (rows[:2].mean(0), rows[2:4].mean(0))]
        assert found[place] == pytest.approx(angles[labels[place]] if labels[place] >= 0 else min(angles), abs=1e-6)


def test_clusters_are_numbered_by_size() -> None:
    assert by_size(np.array([0, 1, 1, -1, 2, 2, 2])).tolist() == [2, 1, 1, -1, 0, 0, 0]
    assert by_size(np.array([0, 0, 1, 1])).tolist() == [0, 0, 1, 1], "equal ones keep their order"


def test_table_begins_with_the_images_nearest_to_centres(tmp_path: Path) -> None:
    labels, distances = np.array([1, -1, 0, 1, 0]), np.array([0.2, 0.1, 0.3, 0.05, 0.01])
    write_clusters(tmp_path / "clusters.csv", list("abcde"), labels, distances)
    rows = rows_of(tmp_path / "clusters.csv")
    assert [row["path"] for row in rows] == ["e", "c", "d", "a", "b"]
    assert [row["cluster"] for row in rows] == ["0", "0", "1", "1", "-1"]
    assert rows[1]["distance"] == "0.3000"


def test_table_keeps_the_bytes_of_a_name(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    write_clusters(tmp_path / "clusters.csv", [os.fsdecode(name)], np.array([0]), np.array([0.5]))
    assert name in (tmp_path / "clusters.csv").read_bytes()


def test_sheet_shows_the_nearest_and_the_farthest_images(tmp_path: Path) -> None:
    height, width = CELL
    for number in range(22):
        Image.new("RGB", (width, height), (10 * number, 0, 255)).save(tmp_path / f"{number:02d}.png")
    paths, labels = [str(path) for path in sorted(tmp_path.glob("*.png"))], np.array([0] * 10 + [1] * 12)
    (sheet,) = draw_clusters(tmp_path, paths, labels, np.linspace(0, 0.5, 22))
    drawn = np.asarray(Image.open(sheet))
    for row, shown in enumerate(([0, 1, 2, 3, 6, 7, 8, 9], [10, 11, 12, 13, 18, 19, 20, 21])):
        for column, number in enumerate(shown):
            top, left = HEADER + row * (height + MARGIN), LEFT + column * (width + MARGIN)
            assert drawn[top + height // 2, left + width // 2].tolist() == [10 * number, 0, 255]


def test_command_writes_clusters_embeddings_and_sheets(finished: Path, folder: Path, tmp_path: Path, capsys) -> None:
    given = ["cluster", str(folder), "--weights", str(finished), "--out", str(tmp_path / "out"), "--progress", "quiet"]
    assert main(given) == 0
    shown = capsys.readouterr().out
    model = ReID.load(finished)
    embedded = model.embed(folder)
    labels = by_size(cluster(embedded).labels)
    rows = {row["path"]: int(row["cluster"]) for row in rows_of(tmp_path / "out/clusters.csv")}
    assert list(rows.values()).count(0) == (labels == 0).sum() and len(rows) == len(embedded)
    found = Embeddings.read(next((tmp_path / "out").glob("embeddings.*")))
    assert [rows[path] for path in found.paths] == labels.tolist() and found.digest == model.digest
    assert torch.allclose(torch.from_numpy(found.features), embedded, atol=1e-6)
    assert len(list((tmp_path / "out/sheets").glob("*.png"))) == -(-(labels.max() + 1) // 20)
    assert f"144 images: {labels.max() + 1} clusters" in shown and "eps" in shown


def test_adapted_network_clusters_the_folder(finished: Path, folder: Path, tmp_path: Path, capsys) -> None:
    given = ["cluster", str(folder), "--weights", str(finished), "--out", str(tmp_path / "out"), "--progress", "quiet"]
    assert main([*given, "--adapt", "0.001"]) == 0, capsys.readouterr().err
    adapted = ReID.load(tmp_path / "out/run")
    found = Embeddings.read(next((tmp_path / "out").glob("embeddings.*")))
    assert found.digest == adapted.digest != ReID.load(finished).digest
    assert adapted.image_size == ReID.load(finished).image_size
    assert [path.name for path in sorted((tmp_path / "out/run").glob("*/epoch_*.pth"))] == ["epoch_1.pth"]
    assert not (tmp_path / "out/trial").exists()


def test_mistakes_are_explained_before_the_work(finished: Path, folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    weights = ["--weights", str(finished)]
    for arguments, message in (
        ([str(folder)], "needs --weights of a network that was trained on people"),
        ([str(folder), *weights, "--out", str(tmp_path / "full")], "full exists already"),
        ([str(folder), *weights, "--out", str(folder / "clusters")], "lies in the folder of the images"),
        ([str(tmp_path / "gone"), *weights], "There is no folder"),
    ):
        assert main(["cluster", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["cluster", str(folder), *weights, "--adapt", "soon"])
    assert "is not a number of minutes" in capsys.readouterr().err
    next(folder.glob("*.jpg")).write_bytes(b"broken")
    assert main(["cluster", str(folder), *weights, "--out", str(tmp_path / "none"), "--progress", "quiet"]) == 1
    assert "cannot be read as an image" in capsys.readouterr().err and not (tmp_path / "none").exists()
