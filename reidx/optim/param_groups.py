"""Parameter groups: layer-wise learning-rate decay, per-module rates, no weight decay for norms and biases."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reidx.errors import ConfigError
from reidx.models.frozen import matching_modules
from reidx.models.network import Network

Group = dict[str, Any]


def parameter_groups(
    model: nn.Module,
    layer_decay: float | None = None,
    no_decay_norm_bias: bool = False,
    rates: Mapping[str, float] | None = None,
) -> list[Group]:
    """Split the trainable parameters of ``model`` into groups.

    Each group has ``params``, and ``lr_scale`` and ``weight_decay`` where they differ from the optimiser's own. The first
    group is at the full rate.

    With ``layer_decay``, the layers of each network's backbone learn at lr · layer_decay^d, where d is the layer's distance
    from the top. Everything above the backbones counts as the top, so the last block has d = 1, as in the fine-tuning of
    BEiT and MAE. The ``group_matcher`` of the backbone, or of its ``layered`` module, assigns parameters to layers in timm's
    convention; parameters without a layer count as the top.

    ``no_decay_norm_bias`` excludes one-dimensional parameters (norms, biases, scales) from weight decay.

    ``rates`` multiplies the learning rate of parts of the networks, by the patterns of
    :func:`reidx.models.frozen.matching_modules`, and of memories, as ``memories.NAME``. The last matching pattern wins.

    Raises :class:`ConfigError` for a backbone whose layers cannot be identified, and for a pattern that matches nothing.
    """
    layers: list[Group] = []
    taken: set[int] = set()
    for network in model.modules():
        if layer_decay is None or not isinstance(network, Network):
            continue
        from timm.optim import param_groups_layer_decay  # imported late: checking a config does not need it

        if any(parameter.requires_grad for parameter in network.backbone.parameters()):
            taken.update(map(id, network.backbone.parameters()))
            layers += param_groups_layer_decay(
                _below_a_head(network.backbone),
                _MARK,
                layer_decay=layer_decay,
                weight_decay_exclude_1d=no_decay_norm_bias,
            )
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    vectors = [p for p in rest if no_decay_norm_bias and p.ndim <= 1]
    kept = set(map(id, vectors))
    groups: list[Group] = [{"params": [p for p in rest if id(p) not in kept]}, *layers]
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})
    groups = [{k: v for k, v in group.items() if (k, v) != ("weight_decay", _MARK)} for group in groups]
    return _at_rates(groups, model, rates or {})


def _at_rates(groups: list[Group], model: nn.Module, rates: Mapping[str, float]) -> list[Group]:
    """Split ``groups`` by the factors of ``rates``; parameters without a factor come first."""
    for pattern, share in rates.items():
        if not 0 < share < math.inf:
            raise ConfigError(
                f"optimization.rates: {pattern}: {share} is not a positive finite factor. To freeze, use model.freeze."
            )
    shares: dict[int, float] = {}
    for pattern, share in rates.items():
        of_memories = pattern.startswith("memories.")
        for whole in [model] if of_memories else [m for m in model.modules() if isinstance(m, Network)]:
            shares.update({id(p): share for p in matching_modules(whole, pattern, "optimization.rates")[1]})
    split: list[Group] = []
    for group in groups:
        by_share: dict[float, list[nn.Parameter]] = {1.0: []} if group is groups[0] else {}
        for parameter in group["params"]:
            by_share.setdefault(shares.get(id(parameter), 1.0), []).append(parameter)
        for share, parameters in by_share.items():
            scale = {} if share == 1.0 else {"lr_scale": group.get("lr_scale", 1.0) * share}
            split.append({**group, "params": parameters, **scale})
    return split


_MARK = 1.0
"""Placeholder for the optimiser's own weight decay, which timm requires as an argument."""


def _below_a_head(backbone: nn.Module) -> nn.Module:
    """View of the backbone's layers with an extra, untrainable layer on top."""
    layered = getattr(backbone, "layered", backbone)
    name = type(layered).__name__
    if not hasattr(layered, "group_matcher"):
        raise ConfigError(
            f"optimization.layer_decay needs a backbone that defines its layers, but {name} has no `group_matcher`. "
            "Remove the key."
        )
    from timm.models import group_parameters

    view: Any = copy.copy(layered)
    view._parameters = {**layered._parameters, "above": nn.Parameter(torch.empty(0), requires_grad=False)}
    if max(group_parameters(view, view.group_matcher(coarse=False), reverse=True).values()) < 2:
        raise ConfigError(f"optimization.layer_decay needs a backbone of several layers, but {name} has one. Remove the key.")
    return view
