"""Conversion of weight files: plain ones keep names and values, those with code need trust, and the code runs elsewhere."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reidx.cli.main import main
from reidx.errors import CheckpointError
from reidx.models.convert import convert
from reidx.models.weights import read_weights

State = dict[str, Tensor]


class Writes:
    """Object that writes a file with its process number when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (f"import os; open({str(self.path)!r}, 'w').write(f'{{os.getpid()}} {{os.environ.get(\"SECRET\")}}')",)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def state() -> State:
    return {"conv1.weight": torch.randn(2, 3), "fc.bias": torch.randn(4)}


def test_plain_file_keeps_names_and_values(state: State, tmp_path: Path) -> None:
    shared = {**state, "again": state["fc.bias"], "turned": state["conv1.weight"].T}
    path, out = saved(tmp_path / "w.pth", {"teacher": shared, "epoch": 3}), tmp_path / "w.safetensors"
    convert(path, out)
    found, before = load_file(out), read_weights(path)
    assert found.keys() == before.keys() and all(torch.equal(found[name], before[name]) for name in found)
    assert list(tmp_path.iterdir()) == [path, out] or set(tmp_path.iterdir()) == {path, out}


def test_code_is_refused_without_trust_and_runs_elsewhere(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET", "password")
    mark, out = tmp_path / "mark", tmp_path / "w.safetensors"
    path = saved(tmp_path / "w.pth", {"state_dict": state, "args": argparse.Namespace(lr=1), "code": Writes(mark)})
    with pytest.raises(CheckpointError, match=r"reidx convert FILE OUT\.safetensors.*--trust"):
        read_weights(path)
    assert main(["convert", str(path), str(out)]) == 1
    message = capsys.readouterr().err
    assert "argparse.Namespace" in message and "--trust" in message and not mark.exists() and not out.exists()
    assert main(["convert", str(path), str(out), "--trust"]) == 0
    process, secret = mark.read_text().split()
    assert process != str(os.getpid()) and secret == "None"
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(out).items())
    assert "No layout of `reidx list weights`" in capsys.readouterr().out


def test_network_and_program_become_their_states(tmp_path: Path) -> None:
    net, out = nn.Sequential(nn.Linear(3, 2)), tmp_path / "w.safetensors"
    torch.jit.script(net).save(tmp_path / "program.pt")
    for path in (saved(tmp_path / "w.pth", {"net": net, "epoch": 1}), tmp_path / "program.pt"):
        with pytest.raises(CheckpointError, match=r"Sequential|TorchScript program"):
            convert(path, out)
        found = convert(path, out, trust=True)
        assert sorted(tuple(tensor.shape) for tensor in found.values()) == [(2,), (2, 3)]


def test_classes_of_missing_packages_are_replaced(state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"state_dict": state, "config": argparse.Namespace(lr=1)})
    import zipfile

    other = tmp_path / "other.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"cargparse\nNamespace\n", b"cfastreid\nConfigNode\n"))
    with pytest.raises(CheckpointError, match=r"fastreid\.ConfigNode"):
        convert(other, tmp_path / "w.safetensors")
    assert convert(other, tmp_path / "w.safetensors", trust=True).keys() == state.keys()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"text", "could not be read as a file of weights"),
        ("w.pth", None, "there is no file"),
        ("w.safetensors", b"text", "could not be read as a file of weights"),
    ],
)
def test_unreadable_file_is_an_error(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / name, tmp_path / "out.safetensors", trust=True)
    assert not (tmp_path / "out.safetensors").exists()


def test_output_is_checked(state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", state)
    with pytest.raises(CheckpointError, match=r"does not end in \.safetensors"):
        convert(path, tmp_path / "out.pth")
    with pytest.raises(CheckpointError, match=r"cannot be written: .* Choose an existing folder"):
        convert(path, tmp_path / "nowhere/out.safetensors")
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        convert(saved(path, {"a": 1}), tmp_path / "out.safetensors")


def test_command_shows_layout_and_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"layer{layer}.{block}.{part}.weight" for layer in (1, 2, 3, 4) for block in (0, 1) for part in ("conv1", "bn1")]
    state = {f"module.encoder_q.{name}": torch.ones(2) for name in ("conv1.weight", "bn1.weight", "fc.weight", *names)}
    path, out = saved(tmp_path / "w.pth", {**state, "module.queue": torch.ones(3)}), tmp_path / "w.safetensors"
    assert main(["convert", str(path), str(out), "--full"]) == 0
    text = capsys.readouterr().out
    assert "layout: MoCo, ResNet\n" in text and "  left out: module.queue\n" in text
    assert f"backbone:\n    type: Timm\n    name: resnet18\n    weights: {out}\n" in text
