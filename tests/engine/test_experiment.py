"""A whole experiment: its result, and the same metrics when its checkpoint is tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import reidx
from reidx.contracts import LabelSet, RefinerContext
from reidx.engine import experiment as experiments
from reidx.errors import CheckpointError, ConfigError
from reidx.testing.tiny import tiny_experiment

Experiment = Callable[..., Path]

MEAN = {"mean": {"type": "EMA", "momentum": 0.5, "batch_norm": "copy"}}


@pytest.mark.parametrize("network", ["student", "mean"])
def test_testing_a_checkpoint_repeats_the_metrics(
    experiment: Experiment, tmp_path: Path, network: str
) -> None:
    config = reidx.load_config(experiment(teachers=MEAN, evaluate={"domain": "target", "network": network}))
    trained = reidx.run(config, tmp_path / "run", progress="quiet")
    before = config.hash, config.experiment.stages[0].init
    tested = experiments.test(config, tmp_path / "run/1-adapt/epoch_2.pth", progress="quiet")
    assert tested.metrics == trained.metrics
    assert (config.hash, config.experiment.stages[0].init) == before
    card = tested.card["stages"]["adapt"]
    assert (card["evaluation"]["network"], card["bn_group"], card["precision"]) == (network, 64, "fp32")


def test_weights_of_another_head_are_refused(experiment: Experiment, tmp_path: Path) -> None:
    reidx.run(reidx.load_config(experiment()), tmp_path / "run", progress="quiet")
    other = reidx.load_config(experiment(), ["model.fusion.pool=gem"])
    with pytest.raises(CheckpointError, match=r"fusion\.pool\.p: missing"):
        experiments.test(other, tmp_path / "run/1-adapt/epoch_2.pth", progress="quiet")


def test_stage_starts_only_from_whole_checkpoints(
    experiment: Experiment, tmp_path: Path
) -> None:
    stages = [{"name": "a", "epochs": 2, "iters": 1}, {"name": "b", "epochs": 1, "iters": 1, "init": "stage:a"}]
    config = reidx.load_config(experiment(stages=stages))
    result = reidx.run(config, tmp_path / "run", progress="quiet", images=True)
    assert [stage.name for stage in result.stages] == ["a", "b"]
    assert result.ranked_list == tmp_path / "run/2-b/ranked.png"
    record = json.loads((tmp_path / "run/result.json").read_text())
    assert record["metrics"] == result.metrics and record["card"]["stages"]["b"]["init"] == "stage:a"
    (tmp_path / "run/1-a/epoch_2.pth").write_bytes(b"damaged")
    (tmp_path / "run/2-b/done.json").unlink()
    with pytest.raises(CheckpointError, match=r"stage:a: its last checkpoint .*epoch_2\.pth is missing or damaged"):
        reidx.run(config, tmp_path / "run", resume=True, progress="quiet")


def test_only_plugins_in_use_are_recorded(experiment: Experiment, tmp_path: Path) -> None:
    memories = {"rows": {"memory": "cluster_contrast.ClusterMemory"}}
    path = experiment(memories=memories, objective=[{"loss": "MemoryContrast", "memory": "rows"}], description="osnet.x")
    reidx.run(reidx.load_config(path), tmp_path / "run", progress="quiet")
    plugins = json.loads((tmp_path / "run/experiment.json").read_text())["plugins"]
    assert list(plugins) == ["cluster_contrast"] and "0.1.0" in plugins["cluster_contrast"]["distribution"]


def test_refiner_gets_its_device_from_the_experiment(
    experiment: Experiment, register: Callable[[str, type], None], tmp_path: Path
) -> None:
    given: list[tuple[str | None, bool]] = []

    class Placed:
        """Refiner that leaves the labels unchanged."""

        def __init__(self, device: str | None = None, sharded: bool = False) -> None:
            given.append((device, sharded))

        def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
            return labels

    register("refiner", Placed)
    labels = tiny_experiment("nowhere")["labels"]
    reidx.run(
        reidx.load_config(experiment(labels={**labels, "refiners": [{"type": "Placed"}]})), tmp_path / "run", progress="quiet"
    )
    assert given[-1] == ("cpu", False)
    with pytest.raises(ConfigError, match=r"'device'.* is supplied by the experiment itself"):
        reidx.load_config(experiment(labels={**labels, "refiners": [{"type": "Placed", "device": "cuda"}]}))


def test_no_picture_of_people_unless_requested(whole: tuple[Path, Path]) -> None:
    assert [path.name for path in whole[1].rglob("*") if path.suffix in (".png", ".jpg")] == []
