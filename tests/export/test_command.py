"""The command ``reidx export``, from a run's folder to a folder that loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reidx.cli.main import main
from reidx.export.folder import write_folder
from reidx.inference import ReID


def test_command_exports_and_reports(
    small: ReID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first").mkdir()
    write_folder(small, tmp_path / "first")
    assert main(["export", "first", "second"]) == 0
    said = capsys.readouterr().out
    assert "second: 96 numbers for an image of 64x32" in said and "the same ranking" in said
    assert all(len(line) <= 80 for line in said.splitlines())
    images = torch.rand(3, 3, 64, 32)
    assert torch.equal(ReID.load(tmp_path / "second", device="cpu").embed(images), small.embed(images))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "out"], "no"),
        (["nowhere", "out.pth"], "a file is .onnx or .pt2"),
        (["nowhere", "out", "--for", "boxmot"], "name it out.onnx"),
    ],
)
def test_command_names_the_mistake(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_file_of_weights_is_exported_by_its_relative_path(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # type: ignore[no-untyped-def]
) -> None:
    network = make({"type": "osnet.OSNet", "width": 0.25}, "osnet.Embedding", (256, 128)).trained.network
    state = {**network.backbone.state_dict(), **network.fusion.state_dict()}
    torch.save({**state, "classifier.weight": torch.zeros(3, 512), "classifier.bias": torch.zeros(3)}, tmp_path / "osnet.pth")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "osnet.pth", "net"]) == 0
