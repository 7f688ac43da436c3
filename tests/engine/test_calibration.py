"""BatchNorm statistics before the first labelling: those of the data, whatever the network started with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.data.transforms import ReidTest
from reidx.engine.relabel import Relabeller
from reidx.engine.step import StageModel
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_same_run
from reidx.testing.tiny import tiny_domain, tiny_experiment


def model_at_first_labelling(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> StageModel:
    """Return the stage's model at its first labelling."""
    seen: list[Any] = []

    class Stop(Exception):
        """Ends the run."""

    def stop(self: Relabeller, *given: Any) -> dict[str, float]:
        seen.append(self.model)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Relabeller, "run", stop)
        with pytest.raises(Stop):
            reidx.run(reidx.load_config(path), folder, progress="quiet")
    return seen[0]


def test_statistics_become_those_of_the_data(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [{"name": "adapt", "epochs": 1, "iters": 1}]
    plain = model_at_first_labelling(experiment(stages=stages), tmp_path / "plain", monkeypatch)
    path = experiment(stages=stages, calibrate=60)
    model = model_at_first_labelling(path, tmp_path / "calibrated", monkeypatch)
    student, fresh = model.networks["student"], plain.networks["student"]
    for (name, mine), other in zip(student.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(mine, other), name  # nothing is trained
    neck = student.fusion.neck
    assert torch.equal(fresh.fusion.neck.running_mean, torch.zeros_like(neck.running_mean))
    # the neck's statistics are those of its input over the whole domain
    images = reidx.data.domains.Domains(reidx.load_config(path).data["data"]).images("target", "train")
    batch = ReidTest(student.mean, student.std).batch(images.batch(range(len(images))))
    student.train()
    with torch.no_grad():
        pooled = torch.cat([student(part)["pooled"] for part in batch.split(48)])
    assert torch.allclose(neck.running_mean, pooled.mean(0), atol=0.2 * pooled.mean(0).abs().max().item())
    assert (neck.running_mean - pooled.mean(0)).norm() < 0.2 * pooled.mean(0).norm()


def test_calibration_reaches_domains_and_teachers(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_experiment(domains_root)
    base["data"]["domains"]["source"] = tiny_domain(domains_root, "source")
    base["model"]["domain_bn"] = True
    base["streams"]["source"] = {**base["streams"]["target"], "domain": "source", "labels": "identity"}
    base["objective"] = [{"loss": "CrossEntropy", "stream": "target", "memory": "rows"}]
    path = experiment(**base, calibrate=5, teachers={"mean": {"type": "EMA"}})
    model = model_at_first_labelling(path, tmp_path / "seen", monkeypatch)
    for network in model.networks.values():
        means = [norm.running_mean for norm in network.fusion.neck.of.values()]
        assert all(bool(mean.any()) for mean in means) and not torch.equal(*means)
    config = reidx.load_config(path)
    reidx.run(config, tmp_path / "one", progress="quiet")
    reidx.run(config, tmp_path / "two", progress="quiet")
    assert_same_run(tmp_path / "two", tmp_path / "one")
    assert checkpoints.load(tmp_path / "one/1-adapt/epoch_2.pth")["reidx"]["steps"] == 6  # calibration passes are not steps
