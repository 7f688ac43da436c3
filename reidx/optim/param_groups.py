"""Groups of parameters: layer by layer slower towards the input, named parts at rates of their own, vectors without decay."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reidx.errors import ConfigError
from reidx.models.frozen import parts_called
from reidx.models.network import Network

Group = dict[str, Any]


def parameter_groups(
    model: nn.Module,
    layer_decay: float | None = None,
    no_decay_norm_bias: bool = False,
    rates: Mapping[str, float] | None = None,
) -> list[Group]:
    """The trainable parameters of ``model`` in groups: each has ``params``, and ``lr_scale`` and ``weight_decay`` where
    they differ from the optimiser's own. The first group is at the full rate.

    With ``layer_decay`` the layers of each network's backbone learn at lr · layer_decay^d, where d counts the layers up
    to the top; all that stands above the backbones is that top, so the last block has d = 1, as in the fine-tuning of
    BEiT and MAE. Which parameters make a layer says the ``group_matcher`` of the backbone, or of its ``layered`` module,
    in timm's convention; a parameter that it puts into no layer counts to the top.

    ``no_decay_norm_bias`` leaves parameters of one dimension out of weight decay: norms, biases, scales.

    ``rates`` gives parts of the networks, by the patterns of :func:`reidx.models.frozen.parts_called`, and memories, as
    ``memories.NAME``, a share of the rate that they would have; the last pattern that means a parameter counts.

    Raises :class:`ConfigError` for a backbone without layers that can be told apart, and a pattern that means nothing.
    """
    layers: list[Group] = []
    taken: set[int] = set()
    for network in model.modules():
        if layer_decay is None or not isinstance(network, Network):
            continue
        from timm.optim import param_groups_layer_decay  # here, as a config is checked without it

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
    """The groups split by the share of the rate that ``rates`` gives their parameters; what has none comes first."""
    for pattern, share in rates.items():
        if not 0 < share < math.inf:
            raise ConfigError(
                f"optimization.rates: {pattern}: {share} is no share of a rate. What shall not learn: model.freeze."
            )
    shares: dict[int, float] = {}
    for pattern, share in rates.items():
        of_memories = pattern.startswith("memories.")
        for whole in [model] if of_memories else [m for m in model.modules() if isinstance(m, Network)]:
            shares.update({id(p): share for p in parts_called(whole, pattern, "optimization.rates")[1]})
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
"""Stands for the optimiser's own weight decay, which timm asks for."""


def _below_a_head(backbone: nn.Module) -> nn.Module:
    """A view of the backbone's layers, with one above them that has nothing to be trained."""
    layered = getattr(backbone, "layered", backbone)
    name = type(layered).__name__
    if not hasattr(layered, "group_matcher"):
        raise ConfigError(
            f"optimization.layer_decay needs a backbone whose layers can be told apart; {name} has no `group_matcher`. "
            "Leave it out."
        )
    from timm.models import group_parameters

    view: Any = copy.copy(layered)
    view._parameters = {**layered._parameters, "above": nn.Parameter(torch.empty(0), requires_grad=False)}
    if max(group_parameters(view, view.group_matcher(coarse=False), reverse=True).values()) < 2:
        raise ConfigError(f"optimization.layer_decay needs a backbone of several layers; {name} is one only. Leave it out.")
    return view
