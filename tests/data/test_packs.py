"""Packs: equal pixels, the conditions under which runs use one, damage and interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reidx.cli.main import main
from reidx.data.datasets import Market1501
from reidx.data.domains import Domains
from reidx.data.images import ImageStore
from reidx.data.packs import ABOUT, Pack, packs_in, write_pack
from reidx.errors import DataError
from reidx.testing.miniatures import MINIATURES
from reidx.testing.miniatures.base import draw

BY_NAME = {miniature.name: miniature for miniature in MINIATURES}
SPLITS = ("train", "query", "gallery")


@pytest.fixture
def data(tmp_path: Path) -> Market1501:
    BY_NAME["Market-1501"].at(tmp_path / "data")
    return Market1501(str(tmp_path / "data"))


def domains(data: Market1501, packs: Path, lines: list[str], **settings: object) -> Domains:
    usual = {"image_size": (32, 16), "interpolation": "bicubic", "workers": 0, "cache_gb": 0.0}
    spec = {"type": "Market1501", "root": data.root}
    return Domains({**usual, **settings, "domains": {"target": spec}}, message=lines.append, packs=packs)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 16), (100, 60)])
def test_packed_images_equal_decoded_ones(data, tmp_path, size, interpolation):
    write_pack(data, tmp_path / "packs", "target", size, interpolation)
    lines: list[str] = []
    found = domains(data, tmp_path / "packs", lines, image_size=size, interpolation=interpolation)
    for split in SPLITS:
        paths = getattr(data, split).paths
        decoded = ImageStore(paths, size, interpolation, cache_bytes=0)
        assert torch.equal(found.images("target", split).batch(range(len(paths))), decoded.batch(range(len(paths))))
    assert not any("packed" in line for line in lines)


def test_pack_is_read_instead_of_the_files(data, tmp_path):
    write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    store = domains(data, tmp_path / "packs", []).images("target", "train")
    expected = store.batch(range(len(store)))
    for path in data.train.paths:
        Path(path).unlink()
    batch = store.batch([5, 0, 5])
    assert torch.equal(batch, expected[[5, 0, 5]])
    batch.zero_()  # a batch is a copy
    assert torch.equal(store.batch([5, 0, 5]), expected[[5, 0, 5]])
    store.move_to(torch.device("cpu"))
    assert torch.equal(store.batch([5, 0, 5]), expected[[5, 0, 5]])


def test_packed_images_take_nothing_from_the_cache(data, tmp_path):
    write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    found = domains(data, tmp_path / "packs", [], cache_gb=0.001)
    before = found._left
    assert found.images("target", "train").cached_bytes and found._left == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image_size": (64, 32)}, "holds its images at 32x16 bicubic, not 64x32 bicubic"),
        ({"interpolation": "bilinear"}, "holds its images at 32x16 bicubic, not 32x16 bilinear"),
    ],
)
def test_other_size_or_interpolation_is_not_used(data, tmp_path, settings, reason):
    write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    lines: list[str] = []
    store = domains(data, tmp_path / "packs", lines, **settings).images("target", "train")
    assert store.cached_bytes == 0
    (line,) = [line for line in lines if "packed" in line]
    assert reason in line and line.endswith("they are decoded")


def test_other_images_are_not_used(data, tmp_path):
    write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    draw(Path(data.root) / "bounding_box_train" / "0009_c1s1_000000_00.jpg", 9)
    lines: list[str] = []
    found = domains(data, tmp_path / "packs", lines)
    assert found.images("target", "train").cached_bytes == 0
    assert "target: no packed train images fit; they are decoded" in lines


def test_other_decoder_is_not_used(data, tmp_path, monkeypatch):
    write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    monkeypatch.setattr("reidx.data.packs.PIL.__version__", "0.1")
    lines: list[str] = []
    domains(data, tmp_path / "packs", lines).images("target", "train")
    assert any("other versions of the decoder" in line for line in lines)


def test_changed_image_of_equal_size_is_refused(data, tmp_path):
    write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    first, other = Path(data.train.paths[0]), Path(data.train.paths[7])
    content = other.read_bytes()
    first.write_bytes(content[: first.stat().st_size].ljust(first.stat().st_size, b"\0"))
    with pytest.raises(DataError, match=r"differs from its file|cannot be read as an image"):
        domains(data, tmp_path / "packs", []).images("target", "train")


def test_pack_holds_labels_and_columns(tmp_path):
    BY_NAME["LTCC"].at(tmp_path / "data")
    from reidx.data.datasets import LTCC

    data = LTCC(str(tmp_path / "data"))
    folder = write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    found = np.load(folder / "gallery.npz")
    assert found["paths"].tolist() == data.gallery.paths and found["ids"].tolist() == data.gallery.ids.tolist()
    assert found["column_clothes"].tolist() == data.gallery.columns["clothes"].tolist()
    assert np.load(folder / "gallery.npy").shape == (len(data.gallery), 3, 32, 16)


def test_same_pack_is_written_once(data, tmp_path):
    first = write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    calls: list[tuple[int, int]] = []
    assert write_pack(data, tmp_path / "packs", "other", (32, 16), "bicubic", lambda *n: calls.append(n)) == first
    assert calls == [] and write_pack(data, tmp_path / "packs", "target", (64, 32), "bicubic") != first
    assert len(packs_in(tmp_path / "packs")) == 2


def test_progress_counts_images_of_all_splits(data, tmp_path):
    calls: list[tuple[int, int]] = []
    write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic", lambda *n: calls.append(n))
    total = sum(len(getattr(data, split)) for split in SPLITS)
    assert calls == [(number, total) for number in range(1, total + 1)]


def test_interrupted_pack_leaves_nothing(data, tmp_path):
    Path(data.gallery.paths[3]).write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    assert list((tmp_path / "packs").iterdir()) == []


def test_damaged_pack_is_refused(data, tmp_path):
    folder = write_pack(data, tmp_path / "packs", "target", (32, 16), "bicubic")
    content = (folder / "train.npy").read_bytes()
    (folder / "train.npy").write_bytes(content[:-1000])
    with pytest.raises(DataError, match=r"train\.npy cannot be read .*Pack the data set again"):
        Pack.read(folder).images("train")
    shutil.copy(folder / "query.npy", folder / "train.npy")
    with pytest.raises(DataError, match=r"holds uint8 \(3, 3, 32, 16\), not uint8 \(24, 3, 32, 16\)"):
        Pack.read(folder).images("train")
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(DataError, match="has format 2, not 1"):
        packs_in(tmp_path / "packs")
    (folder / ABOUT).write_text("{")
    with pytest.raises(DataError, match=r"cannot be read as a pack"):
        packs_in(tmp_path / "packs")


def test_command_packs_for_runs_that_share(data, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    spec = f"{{type: Market1501, root: {data.root}}}"
    config.write_text(f"data: {{image_size: [32, 16], interpolation: bilinear, domains: {{target: {spec}}}}}\n")
    assert main(["data", "pack", str(config), "--out", str(tmp_path / "shared")]) == 0
    assert f"reidx train CONFIG --share {tmp_path / 'shared'}" in capsys.readouterr().out
    (pack,) = packs_in(tmp_path / "shared" / "packs")
    assert (pack.size, pack.interpolation) == ((32, 16), "bilinear")
    assert main(["data", "pack", data.root, "--size", "24x12", "--out", str(tmp_path / "shared")]) == 0
    assert {pack.size for pack in packs_in(tmp_path / "shared" / "packs")} == {(32, 16), (24, 12)}


@pytest.mark.parametrize("size", ["256", "0x128", "256x128x3", "-1x5"])
def test_wrong_size_is_refused(size, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["data", "pack", str(tmp_path), f"--size={size}", "--out", str(tmp_path)])
    assert exit.value.code == 2 and "is not a height and a width, such as 256x128" in capsys.readouterr().err
