"""Files named in a config: their content is part of the provenance of runs, stages and features."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.engine.experiment import run
from reidx.errors import ConfigError, RunError
from reidx.models.backbones import Timm
from reidx.outline.source import file_digest
from reidx.registry.constructor import FilePath, is_file
from reidx.runs.named_files import by_content, digests_of
from reidx.runs.stage_key import stage_key
from reidx.testing.runs import assert_same_run
from reidx.testing.tiny import tiny_experiment, write_experiment

STAGES = [{"name": "one", "epochs": 1, "iters": 2}, {"name": "two", "epochs": 1, "iters": 2}]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Save weights of the tiny backbone and return their path."""
    torch.manual_seed(3)
    torch.save(Timm("test_resnet", image_size=(48, 24)).model.state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


def change(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({name: value * 1.1 if value.is_floating_point() else value for name, value in state.items()}, path)


@pytest.fixture
def config(tmp_path: Path, domains_root: Path) -> Callable[..., reidx.Config]:
    """Return a function that loads an experiment of two stages whose backbone has its weights from ``path``."""

    def write(path: str, **changes: Any) -> reidx.Config:
        model = {"backbone": {"type": "Timm", "name": "test_resnet", "weights": path}}
        content = tiny_experiment(domains_root, log=[], **{"stages": STAGES, "model": model, **changes})
        return reidx.load_config(write_experiment(tmp_path / "experiment.yaml", content))

    return write


@pytest.fixture
def begun(weights: Path, config: Callable[..., reidx.Config], tmp_path: Path) -> Path:
    """Return the folder of a run of that experiment in which only the first stage is finished."""
    run(config(str(weights)), tmp_path / "run", progress="quiet")
    folder = Path(shutil.copytree(tmp_path / "run", tmp_path / "begun"))
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "2-two")
    return folder


def test_changed_weights_are_refused_by_name_and_digests(
    weights: Path, begun: Path, config: Callable[..., reidx.Config], tmp_path: Path
) -> None:
    before = file_digest(weights)
    change(weights)
    with pytest.raises(ConfigError) as refused:
        run(config(str(weights)), begun, resume=True, progress="quiet")
    assert f"  file {weights}: SHA-256 {before[:12]} → {file_digest(weights)[:12]}\n" in str(refused.value)
    run(config(str(weights)), begun, resume="anyway", progress="quiet")
    card = json.loads((begun / "result.json").read_text())["card"]
    assert list(card["resumed_anyway"][0]) == [f"file {weights}"]
    loaded = [stage["weight_files"][0] for stage in card["stages"].values()]
    assert all(report["file"] == str(weights) and report["taken"] > 50 and report["missing"] == [] for report in loaded)


def test_same_weights_by_another_path_are_accepted(
    weights: Path, begun: Path, config: Callable[..., reidx.Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(weights, tmp_path / "copy.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    run(config("~/copy.pth"), begun, resume=True, progress="quiet")
    assert_same_run(begun, tmp_path / "run")
    change(tmp_path / "copy.pth")
    with pytest.raises(ConfigError, match=r"file ~/copy\.pth: SHA-256"):
        run(config("~/copy.pth"), begun, resume=True, progress="quiet")


def test_other_weights_change_the_config(
    weights: Path, begun: Path, config: Callable[..., reidx.Config], tmp_path: Path
) -> None:
    change(Path(shutil.copy(weights, tmp_path / "other.pth")))
    with pytest.raises(ConfigError, match=r"config\.stages\.1\.model\.backbone\.weights: .*w\.pth. → .*other\.pth"):
        run(config(str(tmp_path / "other.pth")), begun, resume=True, progress="quiet")


def test_weights_changed_during_a_run_are_noticed(
    weights: Path, config: Callable[..., reidx.Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reidx.engine import experiment

    card = experiment.stage_card

    def between(*args: Any) -> dict[str, Any]:
        change(weights)
        return card(*args)

    monkeypatch.setattr(experiment, "stage_card", between)
    with pytest.raises(RunError, match=r"file .*w\.pth: SHA-256 \w{12} → \w{12} since the run was started"):
        run(config(str(weights)), tmp_path / "run", progress="quiet")


@pytest.mark.parametrize("written", ["{}", "~/w.pth", "w.pth", "./w.pth"])
def test_stage_with_other_weights_is_not_reused(
    written: str, weights: Path, config: Callable[..., reidx.Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = written.format(weights)
    run(config(path, stages=STAGES[:1]), tmp_path / "a", progress="quiet", share=tmp_path / "shared")
    change(weights)
    result = run(config(path, stages=STAGES[:1]), tmp_path / "b", progress="quiet", share=tmp_path / "shared")
    assert "taken_over" not in result.card
    run(config(path, stages=STAGES[:1]), tmp_path / "alone", progress="quiet")
    assert_same_run(tmp_path / "b", tmp_path / "alone")


KNOWN: dict[str, Any] = {"data": {"target": {}}, "code": {}, "torch": "1", "timm": "1", "threads": 1, "processes": 1}


def test_stage_key_depends_only_on_content(
    weights: Path, config: Callable[..., reidx.Config], tmp_path: Path
) -> None:
    copy = Path(shutil.copy(weights, tmp_path / "copy.pth"))
    assert stage_key(config(str(weights)), 0, KNOWN) == stage_key(config(str(copy)), 0, KNOWN)
    change(copy)
    assert stage_key(config(str(weights)), 0, KNOWN) != stage_key(config(str(copy)), 0, KNOWN)


def test_files_of_init_teachers_and_tables_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("init.pth", "teacher.pth", "table.csv", "list.txt", "plain", "undeclared"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.d").mkdir()
    data = {
        "data": {"domains": {"target": {"type": "CSV", "path": "plain", "root": "folder.d"}, "other": {"path": "~/table.csv"}}},
        "stages": [
            {"init": "init.pth", "teachers": {"old": {"weights": "./teacher.pth"}}, "lists": ["list.txt", "none.txt"],
             "name": "undeclared", "streams": {"a": {"transform": {"type": "CSV", "root": "undeclared"}}}},
            {"init": "stage:one"},
        ],
    }  # fmt: skip
    assert set(digests_of(data)) == {"init.pth", "./teacher.pth", "plain", "~/table.csv", "list.txt"}
    assert digests_of(data)["~/table.csv"] == file_digest(tmp_path / "table.csv")


def test_plugin_declares_a_file_by_its_annotation(register: Callable[[str, type], None], tmp_path: Path) -> None:
    class Learned:
        def __init__(self, a: FilePath, b: FilePath | None = None, c: list[FilePath] | None = None, d: str = "") -> None:
            pass

    register("loss", Learned)
    for name in "abcd":
        (tmp_path / name).write_text(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert set(digests_of({"loss": {"type": "Learned", "a": "a", "b": "b", "c": ["c"], "d": "d"}})) == {"a", "b", "c"}


@pytest.mark.parametrize(("hint", "expected"), [(FilePath, True), (FilePath | None, True), (dict[str, FilePath], True),
                                                (str, False), (str | None, False), (Mapping[str, str], False)])  # fmt: skip
def test_annotation_of_a_file(hint: Any, expected: bool) -> None:
    assert is_file(hint) == expected


def test_paths_are_replaced_by_their_digests() -> None:
    assert by_content({"a": ["x", {"b": "y"}], "c": 1}, {"x": "12"}) == {"a": ["sha256 12", {"b": "y"}], "c": 1}


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "~nobody-here/w.pth", "a\0/b", "x/" * 3000, "."])
def test_other_paths_have_no_digest(path: str) -> None:
    assert digests_of({"weights": path}) == {}
