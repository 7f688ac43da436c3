"""Files of embeddings: the same content in both formats, whole or absent."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reidx.errors import DataError
from reidx.inference import Embeddings
from reidx.inference.embeddings import write_embeddings

FEATURES = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
PATHS = [f"people/{number} \u00e9.jpg" for number in range(7)]


@pytest.fixture(params=["npz", "parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="pip install 'reidx[parquet]'")
    return tmp_path / f"embeddings.{request.param}"


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return (one is None and other is None) or np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(("ids", "cameras"), [
    (None, None),
    (np.array([3, -1, 3, 4, 5, 5, 0]), np.array([1, 2, -1, 1, 2, 3, 6])),
    (np.arange(7), np.full(7, -1)),
])  # fmt: skip
def test_written_embeddings_are_read_back(file: Path, ids: np.ndarray | None, cameras: np.ndarray | None) -> None:
    Embeddings(PATHS, FEATURES, ids, cameras, "ab12", "osnet").write(file)
    found = Embeddings.read(file)
    assert found.paths == PATHS and found.features.dtype == np.float32 and np.array_equal(found.features, FEATURES)
    assert same(found.ids, ids) and same(found.cameras, None if cameras is None or (cameras < 0).all() else cameras)
    assert (found.digest, found.model, len(found)) == ("ab12", "osnet", 7)


def test_names_that_are_not_utf8_are_written(file: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    Embeddings([f"{name}.jpg"], FEATURES[:1], model=name).write(file)
    found = Embeddings.read(file)
    expected = name if file.suffix == ".npz" else "caf\\xe9"  # Parquet holds Unicode alone
    assert (found.paths, found.model) == ([f"{expected}.jpg"], expected)


def test_batches_make_the_same_file(file: Path, tmp_path: Path) -> None:
    ids = np.arange(7)
    write_embeddings(file, ((PATHS[i : i + 3], FEATURES[i : i + 3]) for i in (0, 3, 6)), 7, 5, ids, digest="d")
    found = Embeddings.read(file)
    assert found.paths == PATHS and np.array_equal(found.features, FEATURES) and same(found.ids, ids)


def test_other_programs_read_the_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'reidx[parquet]'")
    Embeddings(PATHS, FEATURES, None, np.array([1, -1, 2, 2, 2, 2, 2])).write(tmp_path / "e.parquet")
    row = parquet.read_table(tmp_path / "e.parquet").to_pylist()[1]
    assert list(row) == ["path", "id", "camera", "embedding"] and row["id"] is None and row["camera"] is None
    assert np.array_equal(np.array(row["embedding"], np.float32), FEATURES[1])


def test_failure_leaves_the_earlier_file(file: Path) -> None:
    Embeddings(PATHS, FEATURES).write(file)
    before = file.read_bytes()

    def failing() -> Iterator[tuple[list[str], np.ndarray]]:
        yield PATHS[:2], FEATURES[:2]
        raise DataError("people/2.jpg cannot be read")

    with pytest.raises(DataError, match=r"2\.jpg"):
        write_embeddings(file, failing(), 7, 5)
    with pytest.raises(DataError, match="2 embeddings were computed for 7 images"):
        write_embeddings(file, [(PATHS[:2], FEATURES[:2])], 7, 5)
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]


def test_other_files_are_refused(file: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        Embeddings.read(file)
    file.write_bytes(b"something else")
    with pytest.raises(DataError, match="cannot be read as"):
        Embeddings.read(file)
    with pytest.raises(DataError, match=r"ends in \.parquet or \.npz"):
        Embeddings.read(file.with_suffix(".txt"))
    with pytest.raises(DataError, match="There is no folder"):
        Embeddings(PATHS, FEATURES).write(file.parent / "nowhere" / file.name)
    Embeddings(PATHS, np.full((7, 5), np.nan, np.float32)).write(file)
    with pytest.raises(DataError, match="NaN"):
        Embeddings.read(file)
    Embeddings([], np.zeros((0, 5), np.float32)).write(file)
    with pytest.raises(DataError, match="has no embeddings"):
        Embeddings.read(file)
    with pytest.raises(DataError, match="3 values of id for 7 images"):
        Embeddings(PATHS, FEATURES, np.arange(3)).write(file)


def test_file_cut_short_is_refused(file: Path) -> None:
    Embeddings(PATHS, FEATURES).write(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read as"):
        Embeddings.read(file)


def test_other_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", path=np.array(PATHS))
    with pytest.raises(DataError, match="no array embedding"):
        Embeddings.read(tmp_path / "other.npz")
    np.savez(tmp_path / "short.npz", path=np.array(PATHS), embedding=FEATURES[:3])
    with pytest.raises(DataError, match="differ in length"):
        Embeddings.read(tmp_path / "short.npz")
    np.savez(tmp_path / "objects.npz", path=np.array([object()]), embedding=FEATURES)
    with pytest.raises(DataError, match="cannot be read as"):
        Embeddings.read(tmp_path / "objects.npz")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'reidx\[parquet\]'"):
        Embeddings(PATHS, FEATURES).write(tmp_path / "e.parquet")
    assert not list(tmp_path.iterdir())


def test_embeddings_of_another_network_are_refused() -> None:
    embeddings = Embeddings(PATHS, FEATURES, digest="a" * 64, model="osnet")
    embeddings.require("a" * 64, "gallery")
    with pytest.raises(DataError, match="The gallery are embeddings of another network \\(osnet, aaaaaaaaaaaa\\)"):
        embeddings.require("b" * 64, "gallery")
