"""The moments of an optimiser, handed on from one stage to the next by the names of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reidx.errors import CheckpointError
from reidx.optim.optimizer import kept_of, same_kind


def names_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """The names in ``model`` of the parameters of ``optimizer``, in the order in which its ``state_dict`` numbers them."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def take_moments(optimizer: torch.optim.Optimizer, model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Let ``optimizer`` begin with what that of a stage's checkpoint knew of the networks' parameters.

    Rates and all other settings stay its own. What the parameter of a memory had gathered is left out, as a relabelling
    makes that another one; a parameter that never had a gradient there begins without any. Raises
    :class:`CheckpointError` unless both are of the same kind, that one has gathered something, and it had the same
    parameters of the networks.
    """
    saved = checkpoint["optimizer"]
    numbers = {name: number for number, name in enumerate(checkpoint["reidx"]["parameters"])}
    if not saved["state"] or not same_kind(optimizer.param_groups[0], saved["param_groups"][0]):
        raise _misfit("is of another kind, or gathers nothing")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, parameter in zip(names_of(optimizer, model), parameters, strict=True):
        if not name.startswith("networks."):
            continue
        kept = saved["state"].get(numbers.get(name, -1), {})
        if name not in numbers or not kept_of(parameter, kept):
            raise _misfit(f"had no {name} of this shape")
        if kept:
            optimizer.state[parameter] = {key: _own(value, parameter) for key, value in kept.items()}


def _own(value: Any, parameter: torch.Tensor) -> Any:
    """A copy, where the parameter is; counts of steps stay where they were."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(parameter.device if value.ndim else value.device, copy=True)


def _misfit(why: str) -> CheckpointError:
    return CheckpointError(
        f"optimization.state_from: that stage's optimiser {why}. Hand moments on between stages of the same networks and the "
        "same optimiser, or leave the key out."
    )
