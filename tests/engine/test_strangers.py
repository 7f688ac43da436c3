"""Files from strangers: code in any file that the program loads is refused with a message, and does not run."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import reidx
from reidx.engine.experiment import test as evaluate
from reidx.errors import CheckpointError, ConfigError, ReidxError
from reidx.models.weights import read_weights
from reidx.runs import checkpoint as checkpoints

Whole = tuple[Path, Path]


class Malicious:
    """Object that makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def evil(canary: Path, tmp_path: Path) -> Path:
    """Save a file of weights with code in it, and return its path."""
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"networks.student.backbone.x": torch.zeros(1)}, "more": Malicious(canary)}, path)
    return path


def refused(canary: Path, act: Callable[[], object], error: type[ReidxError] = CheckpointError) -> str:
    with pytest.raises(error) as raised:
        act()
    assert not canary.exists(), "the code in the file has run"
    message = str(raised.value)
    assert "weights_only=False" not in message, "the message must not advise unsafe loading"
    return message


def test_the_trap_is_real(evil: Path, canary: Path) -> None:
    torch.load(evil, weights_only=False)
    assert canary.exists()


def test_code_in_a_training_checkpoint_is_refused(whole: Whole, unfinished: Path, evil: Path, canary: Path) -> None:
    checkpoint = unfinished / "2-adapt/epoch_1.pth"
    checkpoint.write_bytes(evil.read_bytes())
    # an attacker who can replace the file can replace its checksum, too
    checkpoint.with_suffix(".sha256").write_text(checkpoints.digest(checkpoint))
    config = reidx.load_config(whole[0])
    message = refused(canary, lambda: reidx.run(config, unfinished, resume=True, progress="quiet"))
    assert message.startswith(f"{checkpoint} is not a readable checkpoint.")
    assert "pickled objects, which are not loaded" in message


def test_code_in_weights_to_test_is_refused(whole: Whole, evil: Path, canary: Path) -> None:
    message = refused(canary, lambda: evaluate(reidx.load_config(whole[0]), evil, progress="quiet"))
    assert str(evil) in message and "pickled objects, which are not loaded" in message


@pytest.mark.parametrize("override", ["stages.0.init={0}", "+stages.0.teachers={{old: {{type: Frozen, weights: {0}}}}}"])
def test_code_in_weights_to_start_from_is_refused(
    override: str, whole: Whole, evil: Path, canary: Path, tmp_path: Path
) -> None:
    config = reidx.load_config(whole[0], [override.format(evil)])
    message = refused(canary, lambda: reidx.run(config, tmp_path / "run", progress="quiet"))
    assert str(evil) in message and "pickled objects, which are not loaded" in message


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize("plain", [False, True], ids=["zip", "bare pickle"])
def test_code_in_weights_of_a_backbone_is_refused(
    plain: bool, suffix: str, evil: Path, canary: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"backbone{suffix}"
    path.write_bytes(pickle.dumps(Malicious(canary), protocol=2) if plain else evil.read_bytes())
    message = refused(canary, lambda: read_weights(path))
    assert str(path) in message and "more than plain tensors" in message


def test_code_in_configured_weights_is_refused(whole: Whole, evil: Path, canary: Path, tmp_path: Path) -> None:
    config = reidx.load_config(whole[0], [f"+model.backbone.weights={evil}"])
    assert str(evil) in refused(canary, lambda: reidx.run(config, tmp_path / "run", progress="quiet"))


def test_code_in_a_config_is_refused(canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{canary}']\n")
    refused(canary, lambda: reidx.load_config(path), ConfigError)


def test_code_in_the_kept_config_is_refused(whole: Whole, unfinished: Path, canary: Path) -> None:
    (unfinished / "config.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{canary}']\n")
    config = reidx.load_config(whole[0], ["seed=2"])
    message = refused(canary, lambda: reidx.run(config, unfinished, resume=True, progress="quiet"), ConfigError)
    assert "config: hash " in message


def test_no_module_unpickles_unsafely() -> None:
    package = Path(reidx.__file__).parent
    unpickles = package / "models/unpickle.py"  # the program of `reidx convert --trust`, which no module imports
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "models.unpickle import" not in source and "models import unpickle" not in source, path
        if path == unpickles:
            continue
        assert "weights_only=False" not in source and "allow_pickle=True" not in source, path
        assert "import pickle" not in source and "torch.hub" not in source, path
        assert len(re.findall(r"torch\.load\([^()]*weights_only=True\)", source)) == source.count("torch.load("), path
