"""Files of weights from any source: unusable ones are refused by name, before they take memory or train."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from reidx.errors import CheckpointError
from reidx.models import weight_files
from reidx.models.backbones import Timm
from reidx.models.weights import load_state, read_weights

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    return {"a.weight": torch.randn(4, 3), "a.bias": torch.randn(4), "count": torch.tensor(3)}


def saved(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def changed(state: State, how: Callable[[Tensor], Tensor]) -> State:
    return {**state, "a.weight": how(state["a.weight"])}


UNUSABLE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda w: w.masked_fill(w == w.max(), float("nan")), "holds NaN"),
    "nan in half": (lambda w: (w * float("nan")).half(), "holds NaN"),
    "infinite": (lambda w: w.masked_fill(w == w.max(), float("inf")), "holds infinite numbers"),
    "double beyond float": (lambda w: w.double() * 1e300, "holds infinite numbers"),
    "complex": (lambda w: torch.complex(w, w), "is of type complex64; weights are plain real numbers"),
    "complex double": (lambda w: torch.complex(w, w).to(torch.complex128), "is of type complex128"),
    "sparse": (lambda w: w.to_sparse(), "is sparse"),
    "sparse rows": (lambda w: w.to_sparse_csr(), "is sparse"),
    "quantised": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "is of type qint8"),
    "quantised by channel": (
        lambda w: torch.quantize_per_channel(w, torch.ones(4), torch.zeros(4), 0, torch.quint8), "is of type quint8"
    ),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), "is of type float8_e4m3fn"),
    "nested": (lambda w: torch.nested.nested_tensor([w, w[:2]]), "is a nested tensor"),
    "no data": (lambda w: w.to("meta"), "has a shape but no data"),
    "expanded from one number": (lambda w: torch.zeros(1).expand(10**12), "stands for 4,000.0 GB"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch warns that some kinds of tensors are deprecated
@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_tensor_is_refused_by_name(kind: str, state: State, tmp_path: Path) -> None:
    how, why = UNUSABLE[kind]
    path = saved(tmp_path / "w.pth", {"state_dict": changed(state, how)})
    with pytest.raises(CheckpointError) as refused:
        read_weights(path)
    assert str(refused.value).startswith(f"weights: {path}: a.weight {why}") and "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", changed(state, lambda w: w.to(dtype)))
    assert read_weights(path)["a.weight"].dtype == dtype


def test_infinite_buffer_of_the_module_is_loaded(tmp_path: Path) -> None:
    module = nn.Linear(3, 4)
    module.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    path = saved(tmp_path / "w.pth", module.state_dict())
    assert read_weights(path, module)["mask"][1] == float("-inf")
    with pytest.raises(CheckpointError, match="mask holds infinite"):
        read_weights(path)


def test_safetensors_are_checked_too(state: State, tmp_path: Path) -> None:
    save_file(changed(state, lambda w: w * float("nan")), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.weight holds NaN"):
        read_weights(tmp_path / "w.safetensors")


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    module = nn.Linear(3, 4)
    with pytest.raises(CheckpointError, match=r"of another type: weight \(file torch.int64, model torch.float32\)"):
        load_state(module, {"weight": torch.ones(4, 3, dtype=torch.int64), "bias": torch.zeros(4)}, "w.pth")


def test_nan_weights_of_a_timm_model_are_refused(tmp_path: Path) -> None:
    content = timm.create_model("test_resnet", num_classes=0).state_dict()
    content["layer1.0.conv2.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"w\.pth: layer1\.0\.conv2\.weight holds NaN"):
        Timm("test_resnet", weights=str(saved(tmp_path / "w.pth", content)), image_size=(48, 24))


# ---- size


def bomb(path: Path, zeros: int, entry: str = "data/0", times: int = 1) -> Path:
    """Write a PyTorch file with an entry that unpacks to ``zeros`` MiB of zeros."""
    plain = saved(path.with_suffix(".plain"), {"a.weight": torch.zeros(4)})
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            content = source.read(info)
            if not info.filename.endswith(entry):
                target.writestr(info.filename, content)
                continue
            with target.open(info.filename, "w", force_zip64=True) as handle:
                for _ in range(zeros):
                    handle.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("entry", ["data/0", "data.pkl", "version"])
def test_zip_bomb_is_refused_by_its_directory(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "ROOM", 32 << 20)
    path = bomb(tmp_path / "bomb.pth", 64, entry)
    assert path.stat().st_size < 1 << 20

    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the file was loaded")

    monkeypatch.setattr(torch, "load", load)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"takes 0\.\d MB on the disk and unpacks to [\d.]+ [MG]B, more than weights"):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_bound_grows_with_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "ROOM", 1 << 20)
    path = bomb(tmp_path / "w.pth", 16)
    with pytest.raises(CheckpointError, match="more than weights of this network need"):
        read_weights(path, nn.Linear(100, 100))
    with pytest.raises(CheckpointError, match="could not be read"):  # torch's own check of sizes
        read_weights(path, nn.Linear(1000, 1000))


def test_compressed_weights_of_a_usual_size_are_loaded(state: State, tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.pth", state)
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    assert torch.equal(read_weights(path)["a.weight"], state["a.weight"])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_file_larger_than_memory_is_refused_unread(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    with open(path, "wb") as handle:
        handle.truncate(1 << 42)  # a sparse file: it takes no space on the disk
    with pytest.raises(CheckpointError, match=r"w\.\w+ holds 4,398\.0 GB, but [\d.,]+ GB of memory are free"):
        read_weights(path)


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")


def claims_too_much(path: Path) -> None:
    """Write a file in PyTorch's format before zip whose only storage claims 10^13 numbers."""
    torch.save({"a.weight": torch.zeros(7)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    number = b"\x8a\x06" + (10**13).to_bytes(6, "little")
    changed = re.sub(rb"(cpuq.)K\x07", lambda match: match[1] + number, content, flags=re.DOTALL)
    assert changed != content
    path.write_bytes(changed)


def truncate(path: Path) -> None:
    path.write_bytes(saved(path, {"a": torch.zeros(99)}).read_bytes()[:300])


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("w.pth", lambda path: path.touch(), "could not be read"),
    "text": ("w.pth", lambda path: path.write_text("weights"), "could not be read"),
    "plain pickle": ("w.pth", lambda path: path.write_bytes(pickle.dumps({"a": [1]})), "could not be read|holds no named"),
    "truncated": ("w.pth", truncate, "could not be read"),
    "huge header": ("w.safetensors", huge_header, "could not be read"),
    "claims too much": ("w.pth", claims_too_much, "could not be read"),
    "folder": ("w.pth", Path.mkdir, "is a folder"),
    "pipe": ("w.pth", os.mkfifo, "is a device or a pipe"),
    "loop": ("w.pth", lambda path: path.symlink_to(path), "there is no file .*Too many levels"),
    "dangling": ("w.pth", lambda path: path.symlink_to("nowhere"), "there is no file"),
    "list": ("w.pth", lambda path: saved(path, [1, 2]), "holds no named tensors"),
    "one tensor": ("w.pth", lambda path: saved(path, torch.zeros(3)), "holds no named tensors"),
    "names without tensors": ("w.pth", lambda path: saved(path, {"a": 1}), "holds no named tensors"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_is_refused(kind: str, tmp_path: Path) -> None:
    name, make, why = BROKEN[kind]
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"^weights: .*({why})") as refused:
        read_weights(tmp_path / name)
    assert "\n" not in str(refused.value) and str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "http://127.0.0.1:9/w.pth", "x" * 300, "a\0b"])
def test_special_path_is_refused(path: str) -> None:
    with pytest.raises(CheckpointError, match=r"is a device or a pipe|there is no file"):
        read_weights(path)


# ---- checksums


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("checksum_file", ["w.sha256", "w.pth.sha256"])
@pytest.mark.parametrize("line", ["{}", "{}\n", "{}  w.pth\n", "{} *./some/w.pth\n", "0000{:.60}  other.pth\n{}  w.pth\n"])
def test_checksum_next_to_a_file_is_verified(checksum_file: str, line: str, state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", state)
    text = line.replace("{:.60}", sum_of(path)[:60]).replace("{}", sum_of(path))
    (tmp_path / checksum_file).write_text(text)
    read_weights(path)
    saved(path, changed(state, lambda w: w + 1))
    with pytest.raises(CheckpointError, match=rf"weights: .*w\.pth does not match its checksum {re.escape(checksum_file)}"):
        read_weights(path)


def test_checksum_of_other_files_is_ignored(state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", state)
    (tmp_path / "w.sha256").write_text(f"{'0' * 64}  w.safetensors\n")
    read_weights(path)


@pytest.mark.parametrize("text", [b"", b"abc", b"\xff\xfe\x00", b"0" * 63])
def test_checksum_that_cannot_be_read_is_refused(text: bytes, state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", state)
    (tmp_path / "w.sha256").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"the checksum of .* cannot be read"):
        read_weights(path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.module.", "module._orig_mod.", "backbone.", "base.", "a.b."])
def test_backbone_within_another_network_is_found(tmp_path, prefix):
    whole = timm.create_model("test_resnet", num_classes=7).state_dict()
    path = saved(tmp_path / "w.pth", {prefix + name: value for name, value in whole.items()})
    loaded = Timm("test_resnet", weights=str(path), image_size=(48, 24))
    own = loaded.model.state_dict()
    assert own and all(torch.equal(value, whole[name]) for name, value in own.items())
    assert loaded.notes() == [f"weights: {path}: {len(own)} tensors are taken; left out: fc (2)"]
    saved(path, {**{prefix + name: value for name, value in whole.items()}, "neck.weight": torch.ones(3)})
    notes = Timm("test_resnet", weights=str(path), image_size=(48, 24)).notes()
    assert notes == [f"weights: {path}: {len(own)} tensors are taken; left out: fc (2), neck"]


def test_two_backbones_in_a_file_are_refused(tmp_path):
    whole = timm.create_model("test_resnet", num_classes=0).state_dict()
    both = {f"{who}.{name}": value for who in ("student", "teacher") for name, value in whole.items()}
    path = saved(tmp_path / "w.pth", both)
    with pytest.raises(CheckpointError, match=r"under student\. and under teacher\.\. "):
        Timm("test_resnet", weights=str(path), image_size=(48, 24))


def test_home_of_an_unknown_user_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file ~nobody_here/w\.pth"):
        read_weights("~nobody_here/w.pth")


def test_entries_of_a_checkpoint_are_unwrapped(state: State, tmp_path: Path) -> None:
    training = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.full((2,), float("nan"))}}}, "names": ["a"]}
    for content in ({"model": {"state_dict": state}, **training}, {"state_dict": state, **training}, {"params": state}):
        assert read_weights(saved(tmp_path / "w.pth", content)).keys() == state.keys()
    nested = saved(tmp_path / "w.pth", {"teacher": {"backbone": state}, "student": {"a.bias": state["a.bias"]}, **training})
    assert read_weights(nested).keys() == {*(f"teacher.backbone.{name}" for name in state), "student.a.bias"}


def test_file_that_contains_itself_is_read(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": torch.ones(2)}
    content["b"] = content
    assert "a" in read_weights(saved(tmp_path / "w.pth", content))
    content["state_dict"] = content
    assert "a" in read_weights(saved(tmp_path / "w.pth", content))


NUMBERS = [np.float64(0.5), np.float32(0.25), np.float16(2), np.int64(-7), np.uint8(200), np.bool_(True)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_numpy_numbers_are_read(number: np.generic, module: bytes, state: State, tmp_path: Path) -> None:
    content = {"state_dict": state, "rank1": number, "more": [number]}
    path = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=False)
    path.write_bytes(re.sub(rb"numpy\.(_core|core)\.multiarray", module, path.read_bytes()))
    content = weight_files.load_tensors(path)
    assert content["rank1"] == number == content["more"][0] and not isinstance(content["rank1"], np.generic)


@pytest.mark.parametrize("value", [np.array([1.0]), np.str_("text"), np.complex64(1j), np.datetime64("2020")])
def test_other_numpy_objects_are_refused(value: Any, state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"state_dict": state, "more": [value, value]})
    with pytest.raises(CheckpointError, match=r"reidx convert FILE OUT\.safetensors"):
        read_weights(path)
