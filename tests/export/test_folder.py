"""The exported folder holds all that decides an embedding, and ``ReID.load`` reads it back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reidx.errors import CheckpointError, ConfigError, ReidxError
from reidx.export.folder import write_folder
from reidx.inference import ReID

IMAGES = torch.rand(6, 3, 64, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(small: ReID, tmp_path: Path) -> Path:
    write_folder(small, tmp_path)
    return tmp_path


def changed(folder: Path, **facts: object) -> Path:
    file = folder / "reidx.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))
    return folder


def test_loaded_folder_embeds_and_searches_as_before(small: ReID, folder: Path) -> None:
    loaded = ReID.load(folder, device="cpu")
    assert torch.equal(loaded.embed(IMAGES), small.embed(IMAGES))
    assert loaded.digest == small.digest and loaded.name == small.name
    assert (loaded.image_size, loaded.mean, loaded.std) == (small.image_size, small.mean, small.std)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "reidx.json"]


def test_weights_of_one_domain_are_kept(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = make(domains=("source", "target"), domain="target")
    write_folder(model, tmp_path)
    assert torch.allclose(ReID.load(tmp_path, device="cpu").embed(IMAGES), model.embed(IMAGES), atol=1e-6)


def test_damaged_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="is not the file that"):
        ReID.load(folder)


def test_description_without_meaning_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="has the format 99, and this reidx reads 1"):
        ReID.load(changed(folder, format=99))
    (folder / "reidx.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        ReID.load(folder)
    (folder / "reidx.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="has no name, model"):
        ReID.load(folder)


def test_missing_plugin_is_named(folder: Path) -> None:
    model = json.loads((folder / "reidx.json").read_text())["model"]
    with pytest.raises(ReidxError, match="nowhere"):
        ReID.load(changed(folder, model={**model, "backbone": {"type": "nowhere.Net"}}))


def test_other_components_than_the_weights_are_refused(folder: Path) -> None:
    model = json.loads((folder / "reidx.json").read_text())["model"]
    with pytest.raises(CheckpointError, match="does not fit the components"):
        ReID.load(changed(folder, model={**model, "fusion": {**model["fusion"], "neck": False}}))


def test_model_of_a_folder_cannot_be_given(folder: Path) -> None:
    with pytest.raises(ConfigError, match="leave out `model`"):
        ReID.load(folder, model={"backbone": {"type": "Timm", "name": "resnet18"}})
