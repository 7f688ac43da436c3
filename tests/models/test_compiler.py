"""``compile: true``: compiled networks train the same, keep the names of their weights, and need one graph for all steps."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import reidx
from reidx.checks import dry_build as rehearsal
from reidx.errors import ReidxError
from reidx.models import compiler
from reidx.models.inference import fast_inference
from reidx.models.network import Network, build_network
from reidx.testing.networks import tiny_network

TIMM = {"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": {"type": "GlobalPool"}, "bn_group": 4, "freeze": []}


class Patches(nn.Module):
    """Backbone that compiles quickly: one convolution, one BatchNorm."""

    out_channels = 8
    nonnegative = False

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))


@pytest.fixture(autouse=True)
def _reset_dynamo() -> None:
    torch._dynamo.reset()
    counters.clear()


def test_each_part_is_compiled_once_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()
    monkeypatch.setattr(compiler, "BACKEND", counter)
    network = build_network(TIMM, (48, 24)).train()
    names = list(network.state_dict())
    with compiler.compiled([network]):
        for _ in range(4):
            network(torch.randn(8, 3, 48, 24))["embed"].sum().backward()
    assert counter.frame_count == 2  # backbone, fusion
    assert list(network.state_dict()) == names


def test_features_of_whole_domains_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()
    monkeypatch.setattr(compiler, "BACKEND", counter)
    network = build_network(TIMM, (48, 24))
    with compiler.compiled([network]):
        fast_inference(network)(torch.randn(3, 3, 48, 24))
    assert counter.frame_count == 0


def test_false_leaves_networks_alone() -> None:
    network = tiny_network()
    with compiler.compiled([network], False):
        assert network.backbone._compiled_call_impl is None


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler, which torch needs on a CPU"
)
def test_torchs_compiler_gives_the_same_results() -> None:
    network = tiny_network().train()
    network.backbone.norm = nn.Identity()  # one kernel less to compile
    plain = copy.deepcopy(network)
    images = torch.randn(4, 3, 2, 2)
    with compiler.compiled([network]):
        features = network(images)
        features["embed"].square().sum().backward()
    expected = plain(images)
    expected["embed"].square().sum().backward()
    assert counters["stats"]["unique_graphs"] == 2
    assert torch.allclose(features["embed"], expected["embed"], atol=1e-6)
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


def test_compiled_experiment_has_the_same_losses(
    experiment: Callable[..., Path], tmp_path: Path, register: Callable[[str, type], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "BACKEND", "aot_eager")  # all of torch's compiler except the C++
    register("backbone", Patches)
    model = {"backbone": {"type": "Patches"}, "fusion": {"type": "GlobalPool"}, "bn_group": 4}
    stages = [{"name": "adapt", "epochs": 2, "iters": 2}]
    histories, keys = [], []
    for mode in (False, True):
        path = experiment(compile=mode, model=model, stages=stages, optimizer={"type": "SGD", "lr": 0.01}, grad_cache_chunks=2)
        folder = tmp_path / str(mode)
        histories.append(reidx.run(reidx.load_config(path), folder, progress="quiet").stages[0].history)
        keys.append(list(torch.load(folder / "1-adapt/epoch_2.pth", weights_only=True)["state_dict"]))
        assert (counters["stats"]["unique_graphs"] > 0) == mode
    assert keys[0] == keys[1]
    losses = [[entry["loss"] for entry in history] for history in histories]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_failing_compiler_is_reported_before_training(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("g++ is not here")

    monkeypatch.setattr(compiler, "BACKEND", broken)
    stages = [{"name": "a", "epochs": 1, "iters": 1}, {"name": "b", "epochs": 1, "iters": 1, "compile": True}]
    with pytest.raises(ReidxError, match=r"could not compile .*g\+\+ is not here.*Set compile: false") as caught:
        reidx.run(reidx.load_config(experiment(stages=stages)), tmp_path / "run", progress="quiet")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run/1-a").exists()


def test_compiler_is_not_tried_without_need(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: torch.device) -> None:
        raise AssertionError

    monkeypatch.setattr(rehearsal, "try_compiler", refuse)
    stages = [{"name": "a", "epochs": 1, "iters": 1}, {"name": "b", "epochs": 0, "compile": True}]
    reidx.run(reidx.load_config(experiment(stages=stages)), tmp_path / "run", progress="quiet")


def test_mode_is_passed_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: asked.append(settings["mode"]))
    network: Network = tiny_network()
    with compiler.compiled([network], "max-autotune-no-cudagraphs"), compiler.compiled([network], True):
        assert asked == ["max-autotune-no-cudagraphs"] * 2 + [None] * 2
