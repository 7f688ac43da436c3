"""The published recipes on tiny domains: what a run of each labels, learns from and keeps, and that it can be resumed."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.engine import checkpoint as checkpoints
from reidx.engine import relabel
from reidx.engine.model import StageModel
from reidx.errors import ConfigError
from reidx.losses.cross_entropy import MemoryContrast
from reidx.testing import conformance
from reidx.testing.runs import assert_same_run
from reidx.testing.tiny import IMAGE_SIZE, tiny_domain, write_experiment

SMALL = {"sampler": {"identities": 4, "instances": 2}, "transform": {"pad": 2}}


@pytest.mark.parametrize(("entry", "check"), conformance.cases("spcl"), ids=conformance.label)
def test_contract(entry: Any, check: Any) -> None:
    check(entry)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("domains")


def recipe(name: str, root: Path, path: Path, **changes: Any) -> Path:
    """A file with one of the recipes, on tiny domains, as short as can be."""
    names = ("source", "target") if name == "uda" else ("target",)
    experiment = {
        "_base_": [f"spcl::{name}.yaml"],
        "name": "tiny",
        "data": {"image_size": list(IMAGE_SIZE), "domains": {d: tiny_domain(root, d) for d in names}},
        "model": {"backbone": {"type": "Timm", "name": "test_resnet"}, "bn_group": 8},
        "streams": {d: copy.deepcopy(SMALL) for d in names},
        "labels": {"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.6, "min_samples": 2}},
        "stages": [{"name": "adapt", "epochs": 3, "iters": 4}],
        **changes,
    }
    return write_experiment(path / f"{name}.yaml", experiment)


def history_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "1-adapt/done.json").read_text(encoding="utf-8"))["history"]


def held(folder: Path, memory: str) -> dict[str, torch.Tensor]:
    """The state of a memory at the end of a run."""
    state = checkpoints.load(folder / "1-adapt/epoch_3.pth")["state_dict"]
    start = f"memories.{memory}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


@pytest.fixture(scope="module", params=["usl", "uda"])
def run(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A recipe's name, its config and the folder of a run that went through in one go."""
    folder = tmp_path_factory.mktemp(request.param)
    path = recipe(request.param, root, folder)
    reidx.run(reidx.load_config(path), folder / "run", progress="quiet")
    return request.param, path, folder / "run"


def test_every_image_is_labelled_and_the_threshold_stays(run: tuple[str, Path, Path]) -> None:
    history = history_of(run[2])
    assert len({entry["threshold"] for entry in history}) == 1
    for entry in history:
        assert entry["clusters"] >= 1 and entry["outliers"] >= 1
    rows = held(run[2], "hybrid")["rows"]
    assert rows.shape[0] == 144
    assert torch.allclose(rows.norm(dim=1), torch.ones(144), atol=1e-5)
    assert sorted(held(run[2], "hybrid")["members"].tolist()) == list(range(144))


def test_the_memory_is_clustered_and_filled_only_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted = []

    def spy(self: Any, domain: str, split: str, *more: Any) -> Any:
        extracted.append((domain, split))
        return bank(self, domain, split, *more)

    bank = relabel.Extractor.bank
    monkeypatch.setattr(relabel.Extractor, "bank", spy)
    reidx.run(reidx.load_config(recipe("usl", root, tmp_path)), tmp_path / "run", progress="quiet")
    assert extracted.count(("target", "train")) == 1


def test_a_killed_run_that_is_resumed_is_as_if_never_killed(
    run: tuple[str, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config, whole = run
    steps = []

    def deadly(model: StageModel) -> None:
        steps.append(1)
        if len(steps) == 7:  # within the second epoch
            raise KeyboardInterrupt
        after_step(model)

    after_step = StageModel.after_step
    with monkeypatch.context() as patch:
        patch.setattr(StageModel, "after_step", deadly)
        with pytest.raises(KeyboardInterrupt):
            reidx.run(reidx.load_config(config), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run/result.json").exists()
    reidx.run(reidx.load_config(config), tmp_path / "run", resume=True, progress="quiet")
    assert_same_run(tmp_path / "run", whole)


def test_adaptation_scores_both_domains_in_one_softmax(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = MemoryContrast.forward

    @functools.wraps(forward)
    def spy(self: MemoryContrast, scores: torch.Tensor, targets: torch.Tensor, **more: Any) -> torch.Tensor:
        seen.append((scores.shape, targets.clone()))
        return forward(self, scores, targets, **more)

    monkeypatch.setattr(MemoryContrast, "forward", spy)
    stages = [{"name": "adapt", "epochs": 1, "iters": 2}]
    reidx.run(reidx.load_config(recipe("uda", root, tmp_path, stages=stages)), tmp_path / "run", progress="quiet")
    assert len(seen) == 2
    for shape, targets in seen:
        assert shape[0] == len(targets) == 16 and shape[1] > 12
        assert (targets[:8] < 12).all() and (targets[8:] >= 12).all() and (targets < shape[1]).all()


def test_a_clusterer_without_eps_is_refused_from_the_config(root: Path, tmp_path: Path) -> None:
    labels = {"distance": None, "clusterer": {"type": "KMeans", "n_clusters": 10}}
    with pytest.raises(ConfigError, match="KMeans has none"):
        reidx.load_config(recipe("usl", root, tmp_path, labels=labels))


def test_a_gap_that_leaves_the_range_of_eps_is_refused_from_the_config(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eps is 1\.\d"):
        reidx.load_config(recipe("usl", root, tmp_path), ["labels.refiners.0.gap=0.45"])
