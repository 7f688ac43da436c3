"""Parameter groups: rates that fall layer by layer, vectors without weight decay, each parameter in one group."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reidx
from reidx.config.schema import Optimization
from reidx.errors import ConfigError
from reidx.memories.classifier import LinearClassifier
from reidx.models.network import Network, build_network
from reidx.optim.optimizer import build_optimizer, replacing_parameters
from reidx.optim.param_groups import parameter_groups
from reidx.testing.networks import tiny_network

SGD = {"type": "SGD", "lr": 1.0, "weight_decay": 0.1}


def network_of(name: str, freeze: tuple[str, ...] = ()) -> Network:
    return build_network(
        {"backbone": {"type": "Timm", "name": name}, "fusion": {"type": "GlobalPool"}, "bn_group": 4, "freeze": freeze},
        (64, 32),
    )


def rates(model: nn.Module, **options: Any) -> dict[str, tuple[float, float]]:
    """Return rate and weight decay of each parameter in the optimiser, by name; assert that each is in only one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in build_optimizer(model, SGD, Optimization(**options)).param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = group["lr"], group["weight_decay"]
    return found


def test_vit_rates_fall_block_by_block() -> None:
    model = network_of("test_vit")
    found = rates(model, layer_decay=0.5)
    blocks = len(model.backbone.model.blocks)
    assert blocks > 1
    for name, (rate, decay) in found.items():
        block = re.search(r"\.blocks\.(\d+)\.", name)
        if block:
            expected = 0.5 ** (blocks - int(block[1]))
        elif name.startswith("backbone.model.norm"):
            expected = 0.5  # timm counts the last norm as part of the last block
        else:
            expected = 1.0 if name.startswith("fusion") else 0.5 ** (blocks + 1)  # patches and positions are the lowest layer
        assert rate == pytest.approx(expected), name
        assert decay == 0.1
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_other_families_have_layers_too(name: str) -> None:
    model = network_of(name)
    found = rates(model, layer_decay=0.5)
    # the norm behind ConvNeXt's pooling belongs to its head, the top layer
    own = [rate for key, (rate, _) in found.items() if key.startswith("backbone") and ".head." not in key]
    assert max(own) == 0.5 and len(set(own)) > 2
    assert next(rate for key, (rate, _) in found.items() if key.startswith("backbone")) == min(own)  # the stem
    assert {rate for key, (rate, _) in found.items() if key.startswith("fusion")} == {1.0}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_no_weight_decay_for_norms_and_biases(layer_decay: float | None) -> None:
    model = network_of("test_vit")
    shapes = {name: p.ndim for name, p in model.named_parameters()}
    found = rates(model, no_decay_norm_bias=True, layer_decay=layer_decay)
    assert {name for name, (_, decay) in found.items() if decay == 0.0} == {n for n in found if shapes[n] <= 1}
    assert any(name.endswith("qkv.bias") for name in found) and 0.1 in {decay for _, decay in found.values()}
    assert {decay for _, decay in rates(model, layer_decay=layer_decay).values()} == {0.1}


def test_without_options_there_is_one_group() -> None:
    (group,) = parameter_groups(tiny_network())
    assert set(group) == {"params"}


def test_frozen_parameters_are_in_no_group() -> None:
    model = network_of("test_vit", ("backbone.model.blocks.0", "backbone.model.patch_embed"))
    found = rates(model, layer_decay=0.5, no_decay_norm_bias=True)
    assert found and not any(name.startswith(("backbone.model.blocks.0.", "backbone.model.patch_embed")) for name in found)


def test_all_frozen_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no trainable parameters: model\.freeze"):
        build_optimizer(network_of("test_resnet", ("*",)), SGD)


def test_layer_decay_needs_a_group_matcher() -> None:
    with pytest.raises(ConfigError, match=r"^optimization\.layer_decay needs .*, but TinyBackbone has no `group_matcher`"):
        build_optimizer(tiny_network(), SGD, Optimization(layer_decay=0.5))


def test_rates_keep_their_ratio_after_resuming(
    experiment: Callable[..., Path], tmp_path: Path
) -> None:
    path = experiment(
        optimizer={**SGD, "lr": 0.01},
        optimization={"layer_decay": 0.5, "no_decay_norm_bias": True},
        schedule=[{"type": "StepLR", "step_size": 1, "gamma": 0.1}],
        stages=[{"name": "adapt", "epochs": 2, "iters": 1}],
    )
    config = reidx.load_config(path)
    result = reidx.run(config, tmp_path / "run", progress="quiet")
    assert [entry["lr"] for entry in result.stages[0].history] == pytest.approx([0.01, 0.001])
    folder = tmp_path / "run/1-adapt"
    for file in (folder / "done.json", folder / "epoch_2.pth", folder / "epoch_2.sha256"):
        file.unlink()
    first = torch.load(folder / "epoch_1.pth", weights_only=True)["optimizer"]["param_groups"]
    assert len({group["lr"] for group in first}) > 2 and {group["weight_decay"] for group in first} == {0.0, 0.1}
    again = reidx.run(config, tmp_path / "run", resume=True, progress="quiet")
    assert again.metrics == result.metrics
    assert again.stages[0].history[1]["loss"] == result.stages[0].history[1]["loss"]


# ---- rates of named parts


def test_last_matching_pattern_sets_the_rate() -> None:
    model = network_of("test_resnet")
    found = rates(model, rates={"backbone": 0.1, "backbone.model.layer4": 0.5, "fusion.pool.p": 3.0})
    for name, (rate, decay) in found.items():
        expected = 3.0 if name == "fusion.pool.p" else 1.0 if name.startswith("fusion") else 0.1
        assert rate == pytest.approx(0.5 if name.startswith("backbone.model.layer4") else expected), name
        assert decay == 0.1
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_memory_keeps_its_rate_after_a_reset() -> None:
    network, rows = tiny_network(0), LinearClassifier(4)
    model = nn.ModuleDict({"networks": nn.ModuleDict({"student": network}), "memories": nn.ModuleDict({"rows": rows})})
    optimizer = build_optimizer(model, SGD, Optimization(rates={"memories.rows": 10.0, "backbone": 0.5}))

    def rate(parameter: nn.Parameter) -> float:
        return next(g["lr"] for g in optimizer.param_groups if any(p is parameter for p in g["params"]))

    assert (rate(rows.weight), rate(network.backbone.conv.weight), rate(network.fusion.scale)) == (10.0, 0.5, 1.0)
    with replacing_parameters(rows, optimizer):
        rows.reset(None, torch.arange(3))
    assert rate(rows.weight) == 10.0 and len(rows.weight) == 3
    with pytest.raises(ConfigError, match=r"nothing in the network is called 'memories.row'"):
        parameter_groups(model, rates={"memories.row": 2.0})


def test_factors_combine_with_layers_and_undecayed_vectors() -> None:
    model = network_of("test_vit")
    layered = rates(model, layer_decay=0.5, no_decay_norm_bias=True)
    found = rates(model, layer_decay=0.5, no_decay_norm_bias=True, rates={"backbone.model.blocks.0": 0.2})
    for name, (rate, decay) in found.items():
        share = 0.2 if ".blocks.0." in name else 1.0
        assert rate == pytest.approx(share * layered[name][0]) and decay == layered[name][1]


def test_base_rate_stays_in_the_first_group() -> None:
    model = network_of("test_resnet")
    groups = build_optimizer(model, SGD, Optimization(rates={"backbone": 0.1, "fusion": 0.1})).param_groups
    assert groups[0]["lr"] == 1.0 and not groups[0]["params"]


def test_rate_of_a_missing_part_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimization\.rates: nothing .* is called 'backbon'. Did you mean backbone"):
        build_optimizer(network_of("test_resnet"), SGD, Optimization(rates={"backbon": 0.1}))


@pytest.mark.parametrize("share", [0.0, -0.1, float("nan"), float("inf")])
def test_factor_must_be_positive_and_finite(share: float) -> None:
    with pytest.raises(ConfigError, match=r"optimization\.rates: backbone: .* is not a positive finite factor"):
        build_optimizer(network_of("test_resnet"), SGD, Optimization(rates={"backbone": share}))
