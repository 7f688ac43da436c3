"""Frozen parts of a network: no gradient, fixed statistics, not in the optimiser; patterns without a match."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import reidx
from reidx.errors import ConfigError
from reidx.models.network import Network, build_network
from reidx.optim.optimizer import build_optimizer
from reidx.testing.networks import TinyBackbone, TinyHead

RESNET = {
    "backbone": {"type": "Timm", "name": "test_resnet"},
    "fusion": {"type": "GlobalPool"},
    "bn_group": 4,
    "freeze": ["backbone.model.conv1", "backbone.model.bn1", "backbone.model.layer[12]"],
}


def test_frozen_parts_stay_and_others_learn() -> None:
    network = build_network(RESNET, (48, 24)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = build_optimizer(network, {"type": "SGD", "lr": 0.1, "weight_decay": 0.1})
    (-network(torch.randn(8, 3, 48, 24))["embed"].square().sum()).backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    parts = tuple(f"backbone.model.{name}." for name in ("conv1", "bn1", "layer1", "layer2"))
    held = {name for name in before if name.startswith(parts)}
    assert held and not held & moved
    assert {"backbone.model.layer3.0.bn1.running_mean", "backbone.model.layer3.0.conv1.weight"} <= moved
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(network.named_parameters())
    # the neck's bias is never trained
    assert trained == {id(p) for name, p in parameters.items() if name not in held and name != "fusion.neck.bias"}


def test_training_mode_leaves_frozen_parts_frozen() -> None:
    network = Network(TinyBackbone(), TinyHead(), freeze=["backbone.norm"])
    for mode in (True, False, True):
        network.train(mode)
        assert not network.backbone.norm.training and network.backbone.conv.training == mode
    assert network.backbone.conv.weight.requires_grad and not network.backbone.norm.weight.requires_grad


def test_a_single_parameter_and_a_star_past_dots() -> None:
    network = Network(TinyBackbone(), TinyHead(), freeze=["fusion.scale", "back*norm"])
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"fusion.scale", "backbone.norm.weight", "backbone.norm.bias"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("backbone.nrm", "model.freeze: nothing in the network is called 'backbone.nrm'. Did you mean backbone.norm"),
        ("backbone.xyzzy.0.1.2.3.4.5.6", "In backbone there is: backbone.conv, backbone.norm."),
        ("q", "In it there is: backbone, fusion."),
    ],
)
def test_a_pattern_that_matches_nothing(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Network(TinyBackbone(), TinyHead(), freeze=["backbone.conv", pattern])
    assert message in str(caught.value)


def test_an_experiment_with_frozen_stages(experiment: Callable[..., Path], tmp_path: Path) -> None:
    path = experiment(model=RESNET, stages=[{"name": "adapt", "epochs": 1, "iters": 2}])
    config = reidx.load_config(path)
    reidx.run(config, tmp_path / "run", progress="quiet")
    torch.manual_seed(0)
    state = torch.load(tmp_path / "run/1-adapt/epoch_1.pth", weights_only=True)["state_dict"]
    statistics = [v for k, v in state.items() if "student.backbone.model.layer1" in k and k.endswith("running_mean")]
    assert statistics and all(bool((value == 0).all()) for value in statistics)  # as built
    open_ones = [v for k, v in state.items() if "student.backbone.model.layer3" in k and k.endswith("running_mean")]
    assert open_ones and all(bool((value != 0).any()) for value in open_ones)


def test_wrong_pattern_is_refused_before_training(
    experiment: Callable[..., Path], tmp_path: Path
) -> None:
    stages = [
        {"name": "a", "epochs": 1, "iters": 1},
        {"name": "b", "epochs": 1, "iters": 1, "model": {"freeze": ["backbone.model.leyer1"]}},
    ]
    with pytest.raises(ConfigError, match=r"stages\.1\.model\.freeze: .* Did you mean .*backbone\.model\.layer1"):
        reidx.run(reidx.load_config(experiment(stages=stages)), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run/1-a").exists()
