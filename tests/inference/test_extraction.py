"""Embeddings of folders, tables and data sets in a file, by the command."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import reidx
from reidx.cli.main import main
from reidx.errors import ConfigError, DataError
from reidx.inference import Embeddings, ReID
from reidx.inference.extraction import images_of
from reidx.testing.tiny import tiny_domain, write_experiment


def extracted(source: object, finished: Path, out: Path, *more: str) -> Embeddings:
    given = ["extract", str(source), "--weights", str(finished), "--out", str(out), "--progress", "quiet", *more]
    assert main(given) == 0
    return Embeddings.read(out)


def test_data_set_keeps_identities_and_cameras(finished: Path, domains_root: Path, tmp_path: Path, capsys) -> None:
    model, dataset = ReID.load(finished), reidx.build("dataset", tiny_domain(domains_root))
    found = extracted(domains_root / "target", finished, tmp_path / "all.npz", "--as", "Market1501")
    splits = (dataset.train, dataset.query, dataset.gallery)
    assert found.paths == [path for split in splits for path in split.paths]
    assert found.ids is not None and found.ids.tolist() == [who for split in splits for who in split.ids.tolist()]
    assert found.cameras is not None and found.cameras.tolist() == [c for split in splits for c in split.cameras.tolist()]
    assert np.array_equal(found.features, model.embed(found.paths).numpy())
    assert (found.digest, found.model) == (model.digest, model.name)
    assert f"{len(found):,} embeddings of {model.dim} numbers" in capsys.readouterr().out
    part = extracted(domains_root / "target", finished, tmp_path / "part.npz", "--as", "Market1501", "--split", "query")
    assert part.paths == dataset.query.paths


def test_folder_and_table_are_read(finished: Path, domains_root: Path, tmp_path: Path) -> None:
    folder = domains_root / "target" / "query"
    whole = extracted(folder, finished, tmp_path / "folder.npz")
    assert whole.paths == [str(path) for path in sorted(folder.glob("*"))] and whole.ids is None and whole.cameras is None
    with (tmp_path / "people.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(path, number % 2, 5, "train") for number, path in enumerate(whole.paths[:4])]
        csv.writer(file).writerows([("path", "pid", "camid", "split"), *rows])
    listed = extracted(tmp_path / "people.csv", finished, tmp_path / "table.npz")
    assert listed.paths == whole.paths[:4] and listed.ids is not None and listed.ids.tolist() == [0, 1, 0, 1]
    assert np.allclose(listed.features, whole.features[:4], atol=1e-5)


def test_sources_without_images_are_refused(domains_root: Path, tmp_path: Path) -> None:
    tiny = tiny_domain(domains_root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        images_of(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="no images in the split gallery"):
        images_of(str(domains_root / "target" / "query"), split="gallery")
    with pytest.raises(DataError, match="There is no"):
        images_of(str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="has the domains"):
        images_of(str(write_experiment(tmp_path / "two.yaml", {"data": {"domains": {"a": tiny, "b": tiny}}})))


def test_unreadable_image_leaves_no_file(finished: Path, domains_root: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(min((domains_root / "target" / "query").glob("*")).read_bytes())
    (tmp_path / "images/b.jpg").write_bytes(b"broken")
    given = ["extract", str(tmp_path / "images"), "--weights", str(finished), "--progress", "quiet", "--out"]
    assert main([*given, str(tmp_path / "e.npz")]) == 1
    assert "b.jpg cannot be read as an image" in capsys.readouterr().err
    assert main([*given, str(tmp_path / "e.txt")]) == 1
    assert "its name ends in .parquet or .npz" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
