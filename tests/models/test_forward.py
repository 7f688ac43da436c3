"""A batch in parts: the loss, gradients and statistics of the whole batch, and the activations of one part at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import reidx
from reidx.contracts import Batch
from reidx.engine import step as model_module
from reidx.engine.objective import BoundTerm, Objective
from reidx.engine.step import StageModel
from reidx.errors import ConfigError
from reidx.losses.triplet import Triplet
from reidx.memories import Memory
from reidx.models.forward import check_parts, forward_in_parts
from reidx.models.network import Network
from reidx.models.norm import group_batch_norm
from reidx.optim.optimizer import PrecisionOptimWrapper, build_optimizer
from reidx.testing.networks import tiny_network

STREAMS = {"source": 16, "target": 8}
EMA = {"type": "EMA", "of": "student", "momentum": 0.5, "warmup": False, "batch_norm": "own", "statistics": "running"}


class Rows(Memory):
    """Memory that scores against trained rows and records its updates."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        self.updates: list[Tensor] = []

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        """Do nothing."""

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.rows.T

    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        self.updates.append(features)


class ScoreCE(nn.Module):
    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(scores, targets)


def model_in(parts: int, joint: bool = False, teaching: bool = False) -> StageModel:
    networks = {"student": tiny_network(0, teaching), "mean": tiny_network(1, teaching)}
    for network in networks.values():
        network.bn_group = 4
        group_batch_norm(network, 4)
    wiring = {
        "stream": "target", "network": "student", "feature": "embed", "memory": None, "teacher": None,
        "weight": 1.0, "from_epoch": 0,
    }  # fmt: skip
    terms = [
        BoundTerm("triplet", Triplet(margin=0.3), wiring),
        BoundTerm("ce", ScoreCE(), {**wiring, "stream": "source", "memory": "rows"}),
    ]
    memories = {"rows": Rows()}
    of = {"rows": {"network": "student", "feature": "embed", "labels": "identity"}}
    transforms = {name: lambda x: x.float() for name in STREAMS}
    labels: dict[str, str | None] = {"source": "identity", "target": "main"}
    return StageModel(
        networks, {"mean": EMA}, memories, of, Objective(terms), transforms, labels, joint, grad_cache_chunks=parts
    ).train()


def batches() -> dict[str, Batch]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: Batch(torch.randn(n, 3, 2, 2, generator=generator), torch.arange(n), targets=torch.arange(n) % 3)
        for name, n in STREAMS.items()
    }


@pytest.mark.parametrize("teaching", [False, True])
@pytest.mark.parametrize("joint", [False, True])
def test_step_in_parts_equals_the_whole_step(joint: bool, teaching: bool) -> None:
    whole, parts = model_in(1, joint, teaching), model_in(2, joint, teaching)
    for _ in range(2):  # the second step shows that statistics and averages stay equal
        logs = []
        for model in (whole, parts):
            wrapper = PrecisionOptimWrapper(
                optimizer=build_optimizer(model, {"type": "SGD", "lr": 0.1}), clip_grad={"max_norm": 0.5}
            )
            logs.append(model.train_step(batches(), wrapper))
        assert {k: float(v) for k, v in logs[1].items()} == pytest.approx({k: float(v) for k, v in logs[0].items()}, rel=1e-5)
    other = parts.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.allclose(value.float(), other[name].float(), atol=1e-5), name
    assert whole.steps == parts.steps == 2
    updates = [torch.cat(model.memories["rows"].updates) for model in (whole, parts)]
    assert len(parts.memories["rows"].updates) == 2 and torch.allclose(*updates, atol=1e-5)  # all images, once per step
    if not joint:
        assert whole.networks["student"].backbone.calls == [16, 8] * 2
        assert parts.networks["student"].backbone.calls[:4] == [8, 8, 4, 4]
        assert parts.networks["mean"].backbone.calls == [8, 8, 4, 4] * 2  # without gradients: no second pass


class Diary(torch.autograd.Function):
    """Identity that records its forward and backward passes."""

    passes: ClassVar[list[str]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        Diary.passes.append("forward")
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        assert len(ctx.saved_tensors) == 1
        Diary.passes.append("backward")
        return gradient


class Noted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Diary.apply(x)


def test_activations_are_kept_part_by_part() -> None:
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 1), Noted(), nn.Conv2d(4, 4, 1)), tiny_network().fusion)
    shapes: list[torch.Size] = []

    def pack(x: Tensor) -> Tensor:
        shapes.append(x.shape)
        return x

    Diary.passes.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        _, features = forward_in_parts(network, torch.randn(8, 3, 4, 4), parts=2)
        loss = features["embed"].square().sum()
    assert {shape[1] for shape in shapes if len(shape) == 4} == {3}  # only images, no maps, are kept for backward
    loss.backward()
    # a part is computed again only after backward has finished with the one before
    assert Diary.passes == ["forward"] * 2 + ["forward", "backward"] * 2


def test_recomputed_part_has_the_same_dropout() -> None:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)), tiny_network().fusion).train()
    drawn: list[Tensor] = []
    network.backbone[1].register_forward_hook(lambda m, i, o: drawn.append(o.detach() == 0))
    _, features = forward_in_parts(network, torch.rand(4, 3, 4, 4), parts=2)
    state = torch.get_rng_state()
    features["embed"].sum().backward()
    first, again = drawn[:2], drawn[2:][::-1]  # backward starts with the last part
    assert len(again) == 2 and all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(*first) and torch.equal(torch.get_rng_state(), state)


def test_recomputed_images_update_statistics_once() -> None:
    network = tiny_network().train()
    group_batch_norm(network, 4)
    network.bn_group = 4
    reference = copy.deepcopy(network)
    images = torch.randn(8, 3, 2, 2)
    reference(images)
    _, features = forward_in_parts(network, images, parts=2)
    features["embed"].sum().backward()
    assert network.backbone.calls == [4, 4, 4, 4]
    assert torch.equal(network.backbone.norm.running_mean, reference.backbone.norm.running_mean)
    assert int(network.backbone.norm.num_batches_tracked) == 2


@pytest.mark.parametrize(
    ("images", "parts", "group", "message"),
    [
        (10, 4, 2, "10 images of stream s (of one process) cannot be cut into 4 equal parts."),
        (16, 4, 8, "a part has 4 of 16 images of stream s (of one process), but BatchNorm takes its statistics from gr"),
        (12, 2, 4, "set bn_group to 6 or to a divisor of it"),
        (16, 4, None, "from the whole batch (model.bn_group: null)"),
        (16, 4, 4, ""),
        (16, 4, 2, ""),
    ],
)  # fmt: skip
def test_parts_that_do_not_hold_whole_groups(images: int, parts: int, group: int | None, message: str) -> None:
    network = tiny_network().train()
    network.bn_group = group
    if message:
        with pytest.raises(ConfigError) as caught:
            check_parts(network, images, parts, "s")
        assert message in str(caught.value)
    else:
        check_parts(network, images, parts, "s")


def test_any_parts_fit_without_batch_statistics() -> None:
    network = tiny_network().train()
    network.bn_group = None
    network.backbone.norm.eval()
    check_parts(network, 16, 4)


def test_experiment_in_parts_has_the_same_loss(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def spy(network: Network, images: Tensor, teacher: Tensor | None, parts: int, domain: str | None, columns: Any) -> Any:
        asked.append(parts)
        return forward_in_parts(network, images, teacher, parts, domain, columns)

    monkeypatch.setattr(model_module, "forward_in_parts", spy)
    model = {"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": {"type": "GlobalPool"}, "bn_group": 4}
    stages = [{"name": "adapt", "epochs": 1, "iters": 2}]
    histories = []
    for parts in (1, 2):
        path = experiment(model=model, stages=stages, grad_cache_chunks=parts, optimizer={"type": "SGD", "lr": 0.01})
        histories.append(reidx.run(reidx.load_config(path), tmp_path / str(parts), progress="quiet").stages[0].history[0])
    assert asked == [1, 1, 2, 2]
    whole, parts_of_it = histories
    assert parts_of_it["loss"] == pytest.approx(whole["loss"], rel=1e-3)


def test_parts_are_checked_before_the_first_stage_trains(experiment: Callable[..., Path], tmp_path: Path) -> None:
    first, second = ({"name": name, "epochs": 1, "iters": 1} for name in "ab")
    path = experiment(stages=[first, {**second, "grad_cache_chunks": 3}])
    expected = r"stages\.1\.grad_cache_chunks: \d+ images of stream target .* cannot be cut into 3 equal"
    with pytest.raises(ConfigError, match=expected):
        reidx.run(reidx.load_config(path), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run/1-a").exists()
