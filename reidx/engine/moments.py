"""The moments of an optimiser, handed on from one stage to the next by the names of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reidx.errors import CheckpointError


def names_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """The names in ``model`` of the parameters of ``optimizer``, in the order in which its ``state_dict`` numbers them."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def take_moments(optimizer: torch.optim.Optimizer, model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Let ``optimizer`` begin with what that of a stage's checkpoint knew of the networks' parameters.

    Rates and all other settings stay its own. What the parameter of a memory had gathered is left out, as a relabelling
    makes that another one. Raises :class:`CheckpointError` unless the networks have the same parameters and the optimiser
    keeps the same of each.
    """
    names = names_of(optimizer, model)
    saved = dict(zip(checkpoint["reidx"]["parameters"], range(len(checkpoint["reidx"]["parameters"]))))
    state = checkpoint["optimizer"]["state"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wrong = []
    for name, parameter in zip(names, parameters, strict=True):
        if not name.startswith("networks."):
            continue
        kept = state.get(saved.get(name, -1))
        if kept is None or any(
            isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape for value in kept.values()
        ):
            wrong.append(name)
            continue
        optimizer.state[parameter] = {
            key: value.to(parameter.device if value.ndim else value.device, copy=True)
            if isinstance(value, torch.Tensor)
            else value
            for key, value in kept.items()
        }
    if wrong:
        raise CheckpointError(
            f"optimizer.moments: that stage's optimiser kept nothing that fits {', '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}. Hand moments on between stages of the same networks "
            "and the same optimiser, or leave the key out."
        )
