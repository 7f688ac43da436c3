"""Checkpoints record their image size; at another size, each position embedding moves to its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.data.domains import Domains
from reidx.engine import experiment as experiments
from reidx.engine.stage import StageRun
from reidx.errors import CheckpointError
from reidx.models.network import Network, build_network
from reidx.reporting.reporter import Reporter
from reidx.runs import checkpoint as checkpoints

Experiment = Callable[..., Path]
VIT = {"type": "Timm", "name": "test_vit"}
KEY = "backbone.model.pos_embed"


def network(size: tuple[int, int], **backbone: Any) -> Network:
    torch.manual_seed(0)
    model = {"backbone": VIT | backbone, "fusion": {"type": "GlobalPool"}, "bn_group": 8, "freeze": []}
    return build_network(model, size)


def rows_and_columns(grid: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(
        [[(i + 0.5) / grid[0], (j + 0.5) / grid[1]] for i in range(grid[0]) for j in range(grid[1])]
    )


def written(path: Path, size: tuple[int, int], recorded: bool = True) -> Path:
    """Save a stage's checkpoint at an image size, with position embeddings that hold their own place."""
    state = network(size).state_dict()
    state[KEY][0, 1:, :2] = rows_and_columns((size[0] // 16, size[1] // 16))
    meta = {"image_size": list(size)} if recorded else {}
    torch.save({"meta": meta, "state_dict": {f"networks.student.{k}": v for k, v in state.items()}}, path)
    return path


@pytest.mark.parametrize(
    "old, new",
    [
        ((256, 64), (128, 128)),  # the same number of places: 16x4 and 8x8
        ((256, 128), (128, 256)),
        ((256, 128), (384, 128)),
        ((288, 128), (256, 128)),
        ((256, 128), (256, 128)),
    ],
)
def test_embeddings_of_a_checkpoint_are_moved(old: tuple[int, int], new: tuple[int, int], tmp_path: Path) -> None:
    path = written(tmp_path / "old.pth", old)
    student = network(new)
    checkpoints.load_weights(student, path, whole=True)
    loaded = student.state_dict()[KEY]
    grid = (new[0] // 16, new[1] // 16)
    assert (loaded[0, 1:, :2] - rows_and_columns(grid)).abs().max() < 0.1
    saved = torch.load(path, weights_only=True)["state_dict"]
    rest = {k: v for k, v in student.state_dict().items() if k != KEY}
    assert all(torch.equal(value, saved[f"networks.student.{key}"]) for key, value in rest.items())


def test_checkpoint_without_image_size_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "old.pth", (256, 128), recorded=False)
    with pytest.raises(CheckpointError, match=r"old\.pth has no record of the image size .* pos_embed of test_vit .*"):
        checkpoints.load_weights(network((128, 256)), path)
    student = network((128, 256), weights_image_size=[256, 128])
    checkpoints.load_weights(student, path)
    assert (student.state_dict()[KEY][0, 1:, :2] - rows_and_columns((8, 16))).abs().max() < 0.1


def test_networks_of_any_size_need_none(tmp_path: Path) -> None:
    state = network((64, 32), name="test_resnet").state_dict()
    path = tmp_path / "any.pth"
    torch.save({"state_dict": {f"networks.student.{k}": v for k, v in state.items()}}, path)
    checkpoints.load_weights(network((96, 48), name="test_resnet"), path, whole=True)


def test_runs_hand_their_image_size_on(experiment: Experiment, tmp_path: Path) -> None:
    """``init``, a frozen teacher and ``--weights`` read a run of 96x48 images (6x3 places) at 48x96 (3x6)."""
    changes = ["data.image_size=[96,48]", "model.backbone.name=test_vit", "stages.adapt.epochs=1", "stages.adapt.iters=1"]
    config = reidx.load_config(experiment(), changes)
    reidx.run(config, tmp_path / "tall", progress="quiet")
    path = tmp_path / "tall/1-adapt/epoch_1.pth"
    saved = torch.load(path, weights_only=True)
    assert saved["meta"]["image_size"] == [96, 48]
    given = saved["state_dict"][f"networks.student.{KEY}"]
    moved = torch.nn.functional.interpolate(
        given[0, 1:].T.reshape(1, -1, 6, 3), size=(3, 6), mode="bicubic", antialias=True
    )
    wide = ["data.image_size=[48,96]", *changes[1:], f"init={path}", "stages.adapt.epochs=0"]
    teachers = {"old": {"type": "Frozen"}}
    start = reidx.load_config(experiment(teachers=teachers), wide)
    domains = Domains(start.data["data"])
    stage = StageRun(
        start.experiment.stages[0], 0, 1, domains, tmp_path, Path, Reporter("quiet")
    )
    for name in ("student", "old"):
        own = stage.model.networks[name].state_dict()[KEY].cpu()
        torch.testing.assert_close(own[0, 1:], moved[0].flatten(1).T)
        assert torch.equal(own[0, 0], given[0, 0])
    tested = experiments.test(reidx.load_config(experiment(), wide[:-2]), path, progress="quiet")
    assert tested.metrics


def test_resuming_at_another_image_size_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    """96x48 and 48x96 have the same number of places, so the weights would load without an error."""
    changes = ["model.backbone.name=test_vit", "stages.adapt.epochs=1", "stages.adapt.iters=1"]
    reidx.run(reidx.load_config(experiment(), ["data.image_size=[96,48]", *changes]), tmp_path / "run", progress="quiet")
    more = reidx.load_config(experiment(), ["data.image_size=[48,96]", *changes[:1], "stages.adapt.epochs=2"])
    with pytest.raises(CheckpointError, match=r"trained on images of 96x48, but data.image_size is now 48x96"):
        reidx.run(more, tmp_path / "run", resume="anyway", progress="quiet")
