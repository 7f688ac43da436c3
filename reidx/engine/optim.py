"""Optimisers, precision and schedules of a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from reidx import processes
from reidx.memory import Memory


class PrecisionOptimWrapper(OptimWrapper):
    """An mmengine OptimWrapper whose forward runs in bf16 autocast when asked; bf16 needs no loss scaling.

    mmengine's own AMP wrapper asserts that there is an accelerator. With several processes each has the gradients of
    its own images: for the parameters of ``shared`` modules (the networks) they are summed before the step. Those of
    all others (memories, alignments) every process has whole, and they are averaged, so that no rounding parts them.
    """

    def __init__(
        self, *args: Any, precision: str = "fp32", shared: nn.Module | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.precision, self.shared = precision, shared

    def step(self, **kwargs: Any) -> None:
        if processes.count() > 1:
            self._gather()
        super().step(**kwargs)

    def _gather(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        parts = set() if self.shared is None else {id(p) for p in self.shared.parameters()}
        processes.summed([p.grad for p in parameters])
        for parameter in parameters:
            if id(parameter) not in parts:
                parameter.grad /= processes.count()

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(next(model.parameters()).device, self.precision):
            yield


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The autocast context of ``precision`` (``fp32`` or ``bf16``) on a device."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def build_optimizer(model: nn.Module, spec: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The torch optimiser of a spec ``{type, lr, …}`` over all of ``model``'s trainable parameters, one group."""
    settings = dict(spec)
    optimizer = getattr(torch.optim, settings.pop("type"))
    return optimizer([p for p in model.parameters() if p.requires_grad], **settings)


def swap_parameters(optimizer: torch.optim.Optimizer, old: list[nn.Parameter], new: list[nn.Parameter]) -> None:
    """Make ``optimizer`` train ``new`` in the places of ``old``, with nothing remembered of the old ones."""
    places = {id(parameter): replacement for parameter, replacement in zip(old, new)}
    for group in optimizer.param_groups:
        group["params"] = [places.get(id(parameter), parameter) for parameter in group["params"]]
    for before, after in zip(old, new):
        if before is not after:
            optimizer.state.pop(before, None)


class parameters_kept:
    """Context in which a memory may replace its parameters (reset, restore) without the optimiser losing them."""

    def __init__(self, memory: Memory, optimizer: torch.optim.Optimizer | None) -> None:
        self.memory, self.optimizer = memory, optimizer

    def __enter__(self) -> None:
        self.old = list(self.memory.parameters())

    def __exit__(self, *error: object) -> None:
        if self.optimizer is not None:
            swap_parameters(self.optimizer, self.old, list(self.memory.parameters()))


def schedules(specs: list[dict[str, Any]], epochs: int) -> list[dict[str, Any]]:
    """mmengine scheduler configs with their ``end`` written out, by epoch.

    mmengine's default end is the run's length at construction, and resuming restores the old one, which would freeze
    the rate of a run that was made longer.
    """
    return [{"end": epochs, **spec, "by_epoch": True} for spec in specs]
