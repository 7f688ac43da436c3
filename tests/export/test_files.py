"""ONNX files and programs of torch: batches of any size, normalisation inside, facts, and the package that is missing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from reidx.errors import ConfigError, ReidxError
from reidx.export import onnx_file
from reidx.export.layouts import FILES, IMAGENET, PLAIN, layout_for, normalisation_for
from reidx.export.onnx_file import open_onnx
from reidx.export.rescaled import normalised
from reidx.inference import ReID

IMAGES = torch.rand(32, 3, 64, 32, generator=torch.Generator().manual_seed(1))

needs_onnx = pytest.mark.skipif(bool(onnx_file.missing()), reason="the extra export is not installed")


@pytest.fixture(scope="module")
def onnx(small: ReID, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    FILES[".onnx"].write(small, path, PLAIN)
    return path


@needs_onnx
@pytest.mark.parametrize("size", [1, 5, 32])
def test_one_onnx_file_takes_each_batch(onnx: Path, small: ReID, size: int) -> None:
    assert torch.allclose(open_onnx(onnx)(IMAGES[:size]), small.embed(IMAGES[:size]), atol=1e-5)


@needs_onnx
def test_onnx_file_names_its_batch_and_facts(onnx: Path, small: ReID) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 3, 64, 32], "tensor(float)")
    assert (made.name, made.shape) == ("embeddings", ["batch", small.dim])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["digest"] == small.digest and json.loads(facts["mean"]) == [0, 0, 0] and json.loads(facts["std"]) == [1, 1, 1]


def test_program_of_torch_takes_each_batch(small: ReID, tmp_path: Path) -> None:
    own = (small.mean, small.std)
    FILES[".pt2"].write(small, tmp_path / "small.pt2", own)
    facts = {"reidx.json": ""}
    program = torch.export.load(io.BytesIO((tmp_path / "small.pt2").read_bytes()), extra_files=facts).module()
    assert json.loads(facts["reidx.json"])["digest"] == small.digest
    for size in (1, 5, 32):
        assert torch.allclose(program(normalised(IMAGES[:size], own)), small.embed(IMAGES[:size]), atol=1e-5)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, small: ReID, tmp_path: Path) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(ReidxError, match=r"onnx, onnxruntime, onnxscript: pip install 'reidx\[export\]'"):
        FILES[".onnx"].write(small, tmp_path / "a.onnx", PLAIN)


def test_name_and_program_choose_the_layout(small: ReID) -> None:
    for name, program, layout in [
        ("a.onnx", None, "onnx"),
        ("a.pt2", None, "torch"),
        ("a", None, "reidx"),
        ("v1.2", None, "reidx"),
        ("a", "roboflow", "roboflow"),
        ("a.onnx", "boxmot", "boxmot"),
    ]:
        assert layout_for(Path(name), program).name == layout
    own = (small.mean, small.std)
    assert normalisation_for(layout_for(Path("a.onnx"), None), small, True) == PLAIN
    assert normalisation_for(layout_for(Path("a.onnx"), None), small, False) == own
    assert normalisation_for(layout_for(Path("a.onnx"), "boxmot"), small, False) == IMAGENET


@pytest.mark.parametrize(
    ("name", "program", "message"),
    [
        ("a.pth", None, "a file is .onnx or .pt2"),
        ("a.onnx", "roboflow", "loads a folder"),
        ("a", "boxmot", "name it a.onnx"),
    ],
)
def test_name_that_does_not_fit_is_refused(name: str, program: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        layout_for(Path(name), program)
