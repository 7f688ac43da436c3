"""Transfer of an optimiser's state from one stage to the next, by parameter name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from reidx.errors import CheckpointError
from reidx.optim.optimizer import STATE_OF_GROUP, same_kind


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names in ``model`` of the parameters of ``optimizer``, in the order in which its ``state_dict`` numbers them."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def load_moments(optimizer: torch.optim.Optimizer, model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Initialise the state of ``optimizer`` from another stage's ``checkpoint``, for the networks' parameters.

    Learning rates and all other settings are not copied. The parameters of memories are skipped, because relabelling
    replaces them; a parameter without saved state starts without state.

    Raises :class:`CheckpointError` if the optimisers differ in kind, if the saved one has no state, or if the networks'
    parameters differ in name or shape.
    """
    saved, weights = checkpoint["optimizer"], checkpoint["state_dict"]
    numbers = {name: number for number, name in enumerate(checkpoint["reidx"]["parameters"])}
    if not saved["state"] or not same_kind(optimizer.param_groups[0], saved["param_groups"][0]):
        raise _misfit("is of another kind, or has no state")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, parameter in zip(parameter_names(optimizer, model), parameters, strict=True):
        if not name.startswith("networks."):
            continue
        if name not in numbers or weights[name].shape != parameter.shape:
            raise _misfit(f"has no parameter {name} of this shape")
        kept = saved["state"].get(numbers[name], {})
        if kept:
            optimizer.state[parameter] = {key: _copy_to_device(value, parameter) for key, value in kept.items()}
    for group in optimizer.param_groups:
        group.update({key: saved["param_groups"][0][key] for key in STATE_OF_GROUP if key in saved["param_groups"][0]})


def _copy_to_device(value: Any, parameter: torch.Tensor) -> Any:
    """Copy ``value`` to the device of ``parameter``; scalars (step counts) keep their device."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(parameter.device if value.ndim else value.device, copy=True)


def _misfit(why: str) -> CheckpointError:
    return CheckpointError(
        f"optimization.state_from: that stage's optimiser {why}. Both stages need the same networks and the same optimiser; "
        "otherwise remove the key."
    )
