"""Runs compute their common stages and features once; each run ends as if it had not shared them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.data import images
from reidx.data.packs import packs_in, write_pack
from reidx.doctor.sources import data_sets_of
from reidx.engine import relabel
from reidx.engine.experiment import run
from reidx.engine.stage import StageRun
from reidx.runs.stage_cache import stage_key
from reidx.testing.runs import assert_same_run
from reidx.testing.tiny import IMAGE_SIZE, tiny_domain, tiny_experiment, write_experiment

STAGES = [
    {"name": "warm", "epochs": 1, "iters": 2},
    {"name": "adapt", "epochs": 1, "iters": 2, "init": "stage:warm", "evaluate": {"before": True}},
]


@pytest.fixture
def config(tmp_path: Path, domains_root: Path) -> Callable[..., Any]:
    """Return a function that loads the two-stage experiment with overrides."""
    path = write_experiment(tmp_path / "two.yaml", tiny_experiment(domains_root, stages=STAGES, log=[]))
    return lambda *overrides: reidx.load_config(path, overrides)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that fills with the trained stages and the extractions, in order."""
    done: list[str] = []
    train, extract = StageRun.run, relabel.extract

    def run_stage(self: StageRun, *args: Any, **kwargs: Any) -> Any:
        done.append(self.stage.name)
        return train(self, *args, **kwargs)

    def extracted(*args: Any, **kwargs: Any) -> Any:
        done.append(kwargs["what"])
        return extract(*args, **kwargs)

    monkeypatch.setattr(StageRun, "run", run_stage)
    monkeypatch.setattr(relabel, "extract", extracted)
    return done


def test_shared_stage_is_trained_once(
    config: Callable[..., Any], trained: list[str], tmp_path: Path
) -> None:
    changed = "stages.adapt.labels.clusterer.eps=0.6"
    first = run(config(), tmp_path / "a", progress="quiet", share=tmp_path / "shared")
    trained.clear()
    second = run(config(changed), tmp_path / "b", progress="quiet", share=tmp_path / "shared")
    # adapt starts from the same weights: their features are known, those of trained weights are not
    assert trained == ["adapt", "query of target", "gallery of target"]
    assert second.card["taken_over"] == {"warm": str(tmp_path / "a")} and "taken_over" not in first.card
    run(config(), tmp_path / "a alone", progress="quiet")
    run(config(changed), tmp_path / "b alone", progress="quiet")
    assert_same_run(tmp_path / "a", tmp_path / "a alone")
    assert_same_run(tmp_path / "b", tmp_path / "b alone")
    trained.clear()
    run(config(changed), tmp_path / "b", resume=True, progress="quiet", share=tmp_path / "shared")
    assert trained == []
    card = json.loads((tmp_path / "b/result.json").read_text())["card"]
    assert card["taken_over"] == {"warm": str(tmp_path / "a")}


def test_run_with_packed_images_is_the_same(
    config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample that is compared when a pack is opened is decoded; nothing else is."""
    run(config(), tmp_path / "alone", progress="quiet")
    for name, dataset in data_sets_of(str(tmp_path / "two.yaml"), None, []).items():
        write_pack(dataset, tmp_path / "shared" / "packs", name, IMAGE_SIZE, config().experiment.data.interpolation)
    decoded: list[str] = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda path: decoded.append(path) or decode(path))
    run(config(), tmp_path / "packed", progress="quiet", share=tmp_path / "shared")
    assert 0 < len(decoded) <= 3 * 3 * len(packs_in(tmp_path / "shared" / "packs"))
    assert_same_run(tmp_path / "packed", tmp_path / "alone")


def test_damaged_stage_is_not_reused(
    config: Callable[..., Any], trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(), tmp_path / "a", progress="quiet", share=tmp_path / "shared")
    for checkpoint in tmp_path.glob("shared/stages/warm-*/*.pth"):
        checkpoint.unlink()  # a hard link to the run's own file, which must stay whole
        checkpoint.write_bytes(b"damaged")
    for features in tmp_path.glob("shared/features/*.pth"):
        features.write_bytes(b"damaged")
    trained.clear()
    run(config("stages.adapt.iters=3"), tmp_path / "b", progress="plain", share=tmp_path / "shared")
    assert "warm" in trained and "damaged; the stage is trained again" in capsys.readouterr().err
    run(config("stages.adapt.iters=3"), tmp_path / "alone", progress="quiet")
    assert_same_run(tmp_path / "b", tmp_path / "alone")


KNOWN = {
    "data": {"target": {"train": {"files": "1"}}},
    "code": {"reidx": "1", "lp": "1"},
    "torch": "1",
    "timm": "1",
    "threads": 1,
    "processes": 1,
}


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("stages.adapt.epochs=5", True),
        ("name=other", True),
        ("data.cache_gb=1", True),
        ("data.domains.target.root=elsewhere", True),
        ("seed=2", False),
        ("stages.warm.iters=3", False),
        ("stages.warm.evaluate.flip=true", False),
        ("data.image_size=[32, 16]", False),
        ("data.domains.target={type: PersonX, root: elsewhere}", False),
        ("stages.warm.optimizer.lr=1e-3", False),
    ],
)
def test_key_of_the_first_stage(config: Callable[..., Any], override: str, same: bool) -> None:
    assert (stage_key(config(override), 0) == stage_key(config(), 0)) == same
    assert (stage_key(config(override), 0, KNOWN) == stage_key(config(), 0, KNOWN)) == same


@pytest.mark.parametrize(
    ("change", "same"),
    [("of.root=elsewhere", True), ("of={type: PersonX, root: elsewhere}", False), ("seed=1", False)],
)
def test_stage_key_ignores_inner_data_paths(
    tmp_path: Path, domains_root: Path, change: str, same: bool
) -> None:
    split = {"type": "CameraSplit", "of": tiny_domain(domains_root), "side": "target", "cameras": [1, 2]}
    data = {"image_size": list(IMAGE_SIZE), "domains": {"target": split}}
    path = write_experiment(tmp_path / "split.yaml", tiny_experiment(domains_root, data=data))
    keys = [stage_key(reidx.load_config(path, [f"data.domains.target.{c}"]), 0) for c in ("side=target", change)]
    assert (keys[0] == keys[1]) == same


def test_stage_key_covers_start_and_provenance(config: Callable[..., Any], tmp_path: Path) -> None:
    assert stage_key(config("stages.warm.iters=3"), 1) != stage_key(config(), 1)
    others = {"data": {"target": {"train": {"files": "2"}}}, "torch": "2", "timm": "2", "threads": 2, "processes": 2}
    for part, other in others.items():
        assert stage_key(config(), 0, {**KNOWN, part: other}) != stage_key(config(), 0, KNOWN)
    code = {**KNOWN, "code": {"reidx": "1", "lp": "2"}}  # no part of the stage is of the plugin lp
    assert stage_key(config(), 0, code) == stage_key(config(), 0, KNOWN)
    assert stage_key(config(), 0, {**KNOWN, "code": {"reidx": "2"}}) != stage_key(config(), 0, KNOWN)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"one")
    begun = config(f"stages.warm.init={weights}")
    before = stage_key(begun, 0, KNOWN)
    weights.write_bytes(b"two")
    assert stage_key(begun, 0, KNOWN) != before
