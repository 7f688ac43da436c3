"""Optimiser and precision of a stage."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reidx import distributed
from reidx.config.schema import Optimization
from reidx.errors import ConfigError
from reidx.memories import Memory
from reidx.optim.mmengine_optim import OptimWrapper
from reidx.optim.param_groups import Group, parameter_groups
from reidx.profiling import span
from reidx.registry.build import build
from reidx.registry.seam import call


class PrecisionOptimWrapper(OptimWrapper):
    """mmengine OptimWrapper with optional bf16 autocast, and with gradients summed over processes.

    bf16 needs no loss scaling; mmengine's own AMP wrapper requires an accelerator. With several processes, the gradients of
    ``shared`` modules (the networks) come from each process's own images and are summed before the step. All other
    gradients (memories, alignments) are complete on every process and are averaged, so that rounding cannot make the
    processes diverge.
    """

    def __init__(
        self, *args: Any, precision: str = "fp32", shared: nn.Module | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.precision, self.shared = precision, shared

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(next(model.parameters()).device, self.precision):
            yield

    @span("backward")
    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        super().backward(loss, **kwargs)

    @span("optimiser")
    def step(self, **kwargs: Any) -> None:
        if distributed.count() > 1:
            self._gather()
        call("optimizer", self.optimizer, "step", super().step, **kwargs)

    def _gather(self) -> None:
        parts = set() if self.shared is None else {id(p) for p in self.shared.parameters()}
        gradients = {id(p): p.grad for p in self._parameters_with_grad() if p.grad is not None}
        distributed.all_reduce_(list(gradients.values()))
        for parameter, gradient in gradients.items():
            if parameter not in parts:
                gradient.div_(distributed.count())

    @span("optimiser")
    def zero_grad(self, **kwargs: Any) -> None:
        super().zero_grad(**kwargs)

    def _clip_grad(self) -> None:
        # mmengine's version logs the norm, which synchronises host and device at every step
        self.clip_func(self._parameters_with_grad(), **self.clip_grad_kwargs)

    def _parameters_with_grad(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast context for ``precision`` (``fp32`` or ``bf16``) on ``device``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def build_optimizer(
    model: nn.Module, spec: Mapping[str, Any], optimization: Optimization | None = None, where: str = "optimizer"
) -> torch.optim.Optimizer:
    """Build the optimiser of ``spec`` (``{type, lr, …}``) over all trainable parameters of ``model``.

    The parameters form one group, unless ``layer_decay``, ``no_decay_norm_bias`` or ``rates`` of ``optimization`` requires
    several. Raises :class:`ConfigError` if no parameter is trainable, the backbone's layers cannot be identified, or the
    optimiser rejects a value or the parameters; ``where`` is its place in the config.
    """
    optimizer: torch.optim.Optimizer = build("optimizer", spec, where=where, params=trainable_groups(model, optimization))
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_scale", 1.0)
    return optimizer


def trainable_groups(model: nn.Module, optimization: Optimization | None = None) -> list[Group]:
    """Return the parameter groups of an optimiser; raises :class:`ConfigError` as :func:`build_optimizer` does."""
    asked = optimization or Optimization()
    groups = parameter_groups(model, asked.layer_decay, asked.no_decay_norm_bias, asked.rates)
    if not any(group["params"] for group in groups):
        raise ConfigError("There are no trainable parameters: model.freeze freezes all of them.")
    return groups


def try_step(optimizer: torch.optim.Optimizer, where: str) -> None:
    """Make a step with gradients of 0, without a closure.

    Raises :class:`ConfigError` if the optimiser fails because it needs a closure.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        call("optimizer", optimizer, "step", optimizer.step)
    except Exception as error:
        if "closure" not in inspect.signature(type(optimizer).step).parameters:
            raise
        cause = error.__cause__ or error
        raise ConfigError(
            f"{where}: {type(optimizer).__name__} cannot train a stage: without a closure that computes the loss again, its "
            f"step fails ({type(cause).__name__}: {cause}); but one step of a stage computes the objective once "
            "(docs/limits.md)."
        ) from error


STATE_OF_GROUP = ("step",)
"""State that some optimisers (Lamb, Adan) keep in their groups, from their first step on."""


def clear_state(optimizer: torch.optim.Optimizer) -> None:
    """Return an optimiser to its state before the first step; the settings of its groups remain."""
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for key in STATE_OF_GROUP:
            group.pop(key, None)


def swap_parameters(optimizer: torch.optim.Optimizer, old: list[nn.Parameter], new: list[nn.Parameter]) -> None:
    """Replace the parameters ``old`` of ``optimizer`` by ``new`` and drop the state of those replaced."""
    places = {id(parameter): replacement for parameter, replacement in zip(old, new)}
    for group in optimizer.param_groups:
        group["params"] = [places.get(id(parameter), parameter) for parameter in group["params"]]
    for before, after in zip(old, new):
        if before is not after:
            optimizer.state.pop(before, None)


def can_load_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> bool:
    """Return true if ``optimizer`` can load the state ``saved``: same kind, same groups, same parameter shapes."""
    groups, others = optimizer.param_groups, saved["param_groups"]
    if [len(group["params"]) for group in groups] != [len(other["params"]) for other in others]:
        return False
    for group, other in zip(groups, others):
        if not same_kind(group, other):
            return False
        for parameter, number in zip(group["params"], other["params"]):
            if not shapes_match(parameter, saved["state"].get(number, {})):
                return False
    return True


def same_kind(group: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return true if two parameter groups belong to the same kind of optimiser."""
    # no two kinds share the same setting names; amsgrad changes the state within one kind
    later = {"initial_lr", *STATE_OF_GROUP}
    return {*group, *later} == {*other, *later} and group.get("amsgrad") == other.get("amsgrad")


def shapes_match(parameter: Tensor, kept: Mapping[str, Any]) -> bool:
    """Return true if the state ``kept`` of an optimiser matches the shape of ``parameter``."""
    return all(not isinstance(v, Tensor) or not v.ndim or v.shape == parameter.shape for v in kept.values())


class replacing_parameters:
    """Context manager around a memory's reset or restore that registers replaced parameters with the optimiser."""

    def __init__(self, memory: Memory, optimizer: torch.optim.Optimizer | None) -> None:
        self.memory, self.optimizer = memory, optimizer

    def __enter__(self) -> None:
        self.old = list(self.memory.parameters())

    def __exit__(self, *error: object) -> None:
        if self.optimizer is not None:
            swap_parameters(self.optimizer, self.old, list(self.memory.parameters()))


def clipping(limit: float | None, by: str) -> dict[str, Any] | None:
    """mmengine's settings for gradient clipping at ``limit``, by ``norm`` or ``value``; None without a limit."""
    if limit is None:
        return None
    return {"type": "norm", "max_norm": limit} if by == "norm" else {"type": "value", "clip_value": limit}
