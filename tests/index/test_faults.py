"""An index survives a kill at any moment, and refuses bad input and damaged files with a message."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reidx.errors import ConfigError, DataError, RunError
from reidx.index import Filter, Index, Rows, store, structures
from reidx.index.times import parse_time, parse_times, show_time
from reidx.runs.lock import LOCK, InUse, locked

KINDS = structures.KINDS


def vectors(count: int, seed: int = 0, width: int = 8) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def named(count: int, prefix: str = "a") -> Rows:
    return Rows([f"{prefix}/{n}.jpg" for n in range(count)])


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", vectors(50), named(50), digest="d1", model="net")


def in_a_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process and return the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # a forked process has no other threads
            work()
        finally:
            os._exit(0)  # never returns into the tests
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def killing(module: Any, name: str, monkeypatch: pytest.MonkeyPatch, call: int, late: bool = False) -> None:
    """Let the process kill itself at the given call of a function, before it or ``late`` after it."""
    original, calls = getattr(module, name), [0]

    def deadly(*arguments: Any, **named_arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named_arguments)
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    monkeypatch.setattr(module, name, deadly)


POINTS = [
    (structures, "write", 1, False, 50),
    (structures, "write", 1, True, 50),
    (np, "save", 2, True, 50),
    (store, "file_digest", 2, False, 50),
    (os, "replace", 1, False, 50),
    (os, "replace", 1, True, 70),
    (shutil, "rmtree", 1, False, 70),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("module", "name", "call", "late", "rows"), POINTS)
def test_kill_during_add_leaves_before_or_after(
    kind: str, module: Any, name: str, call: int, late: bool, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.build(tmp_path / "i", vectors(50), named(50), kind)
    with monkeypatch.context() as patch:
        killing(module, name, patch, call, late)
        assert in_a_child(lambda: index.add(vectors(20, 1), named(20, "b"))) == signal.SIGKILL
    found = Index.open(tmp_path / "i", whole=True)
    assert len(found) == rows
    assert found.search(vectors(50)[7:8], 1).rows.tolist() == [[7]]
    again = found.add(vectors(5, 2), named(5, "c"))
    assert len(again) == rows + 5
    assert len(list((tmp_path / "i").glob("generation_*"))) == 1


def test_kill_during_build_leaves_a_folder_that_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        killing(structures, "write", patch, 1, late=True)
        assert in_a_child(lambda: Index.build(tmp_path / "i", vectors(9), named(9))) == signal.SIGKILL
    with pytest.raises(DataError, match=r"no index\.json"):
        Index.open(tmp_path / "i")
    assert len(Index.build(tmp_path / "i", vectors(9), named(9))) == 9


def test_full_disk_leaves_the_index_unchanged(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(structures, "write", full)
        with pytest.raises(RunError, match=r"No space left.*index is unchanged"):
            index.add(vectors(3, 1), named(3, "b"))
    assert len(Index.open(index.folder, whole=True)) == 50


def test_index_under_change_refuses_a_second_change(index: Index) -> None:
    with locked(index.folder / LOCK), pytest.raises(InUse, match="being changed"):
        index.add(vectors(3, 1), named(3, "b"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "missing"])
def test_damaged_files_are_named(kind: str, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "i"
    Index.build(folder, vectors(50), named(50), kind)
    for path in sorted((folder / "generation_1").iterdir()):
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            middle = len(whole) // 2
            changed = bytes([whole[middle] ^ 1])
            path.write_bytes(whole[:-1] if damage == "truncated" else whole[:middle] + changed + whole[middle + 1 :])
        with pytest.raises(DataError, match=path.name):
            Index.open(folder)
        path.write_bytes(whole)
    assert len(Index.open(folder)) == 50


def test_large_files_are_verified_on_request(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VERIFIED", 100)
    path = index.folder / "generation_1/vectors.faiss"
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.write_bytes(whole)
    assert len(Index.open(index.folder)) == 50
    with pytest.raises(DataError, match=r"vectors\.faiss is corrupt"):
        Index.open(index.folder, whole=True)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', "{"])
def test_damaged_manifest_is_refused(index: Index, text: str) -> None:
    (index.folder / "index.json").write_text(text)
    with pytest.raises(DataError, match=r"index\.json is (damaged|of format)"):
        Index.open(index.folder)


def test_changed_manifest_is_refused(index: Index) -> None:
    path = index.folder / "index.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "dim": 9}))
    with pytest.raises(DataError, match="checksum"):
        Index.open(index.folder)


def test_embeddings_of_another_network_are_refused(index: Index) -> None:
    with pytest.raises(DataError, match=r"another network \(net, d1\).*not of other \(d2"):
        index.add(vectors(2, 1), named(2, "b"), digest="d2", model="other")
    with pytest.raises(DataError, match="embeddings of 8 numbers, the query gives 5"):
        index.search(vectors(1, width=5))
    with pytest.raises(DataError, match="embeddings of 8 numbers"):
        index.add(vectors(2, 1, width=5), named(2, "b"))
    assert len(index.add(vectors(2, 1), named(2, "b"), digest="d1")) == 52


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_embeddings_without_direction_are_refused(index: Index, bad: float) -> None:
    x = vectors(3, 1)
    x[1] = bad
    for refused in (lambda: index.add(x, named(3, "b")), lambda: index.search(x), lambda: Index.build("never", x, named(3))):
        with pytest.raises(DataError, match="row 1"):
            refused()
    assert len(Index.open(index.folder)) == 50 and not Path("never").exists()


def test_empty_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gallery is empty"):
        Index.build(tmp_path / "i", np.zeros((0, 4), np.float32), named(0))
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("k", [0, -1, 51, 2.5, True])
def test_k_outside_the_gallery_is_refused(index: Index, k: Any) -> None:
    with pytest.raises(DataError, match=f"k is {k}; .* from 1 to the 50 images"):
        index.search(vectors(1), k)


def test_filters_that_nothing_passes_are_refused(tmp_path: Path) -> None:
    times = np.array([1.0, np.nan, 3.0])
    rows = Rows(["a", "b", "c"], cameras=np.array([1, 2, -1]), times=times)
    index = Index.build(tmp_path / "i", vectors(3), rows)
    for where, message in (
        (Filter([7]), "camera 7. It has cameras 1, 2"),
        (Filter(after=5), "from 1 to 3"),
        (Filter([2], before=9), "of that camera"),
    ):
        with pytest.raises(DataError, match=message):
            index.search(vectors(1), 1, where)
    bare = Index.build(tmp_path / "bare", vectors(3), named(3))
    for where, message in ((Filter([1]), "knows no cameras"), (Filter(after=0), "knows no times")):
        with pytest.raises(DataError, match=message):
            bare.search(vectors(1), 1, where)


def test_images_are_added_and_removed_once(index: Index) -> None:
    with pytest.raises(DataError, match=r"2 of the images are in .* already, such as a/0\.jpg"):
        index.add(vectors(2, 1), named(2))
    with pytest.raises(DataError, match=r"b/x\.jpg is listed twice"):
        index.add(vectors(2, 1), Rows(["b/x.jpg"] * 2))
    with pytest.raises(DataError, match=r"1 of the images are not in .*, such as gone"):
        index.remove(["a/1.jpg", "gone"])
    with pytest.raises(DataError, match=r"all images.*Delete the folder"):
        index.remove(list(index.rows.paths))
    assert len(Index.open(index.folder)) == 50


def test_folders_with_other_contents_are_refused(index: Index, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    own, file = tmp_path / "own", tmp_path / "file"
    for folder, message in ((index.folder, "an index already"), (own, r"thesis\.tex"), (file, "is a file")):
        with pytest.raises(ConfigError, match=message):
            Index.build(folder, vectors(3), named(3))
    with pytest.raises(DataError, match=r"no index.*reidx index build"):
        Index.open(tmp_path / "none")


def test_unknown_kind_and_aim_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exact, ivf, hnsw"):
        Index.build(tmp_path / "i", vectors(3), named(3), "hsnw")
    with pytest.raises(ConfigError, match=r"recall is 95"):
        Index.build(tmp_path / "i", vectors(3), named(3), "ivf", recall=95)


def test_reader_takes_a_change_that_came_meanwhile(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = store.read_manifest, [0]

    def slow(folder: Path) -> dict[str, Any]:
        found = read(folder)
        calls[0] += 1
        if calls[0] == 1:  # a change between the manifest and the files
            monkeypatch.setattr(store, "read_manifest", read)
            index.add(vectors(2, 1), named(2, "b"))
            monkeypatch.setattr(store, "read_manifest", slow)
        return found

    monkeypatch.setattr(store, "read_manifest", slow)
    assert len(Index.open(index.folder)) == 52


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    names = ["ä/ö.jpg", os.fsdecode(b"\xff.jpg"), ""]
    index = Index.build(tmp_path / "i", vectors(3), Rows(names))
    assert list(index.rows.paths) == names and index.rows.paths[-2] == names[1] and index.rows.paths[:2] == names[:2]


def test_times_are_numbers_or_dates() -> None:
    assert parse_time("12.5") == (12.5, "numbers")
    assert parse_time("1970-01-02") == (86400.0, "dates")
    assert parse_time("1970-01-01T02:00:00+01:00") == (3600.0, "dates") == parse_time("1970-01-01T01:00:00Z")
    times, form = parse_times(["2026-05-01T10:30", "", "2026-05-02"], "t.csv")
    assert [show_time(time, form) for time in times] == ["2026-05-01T10:30:00", "", "2026-05-02T00:00:00"]
    assert show_time(3.0, "numbers") == "3"
    with pytest.raises(DataError, match=r"t\.csv: some times are numbers"):
        parse_times(["3", "2026-05-02"], "t.csv")
    for bad in ("soon", "nan", "inf", "2026-13-01"):
        with pytest.raises(DataError, match="is no time"):
            parse_time(bad)
