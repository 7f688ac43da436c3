"""Optimisers, precision and schedules of a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reidx import distributed
from reidx.config.schema import Optimization
from reidx.errors import ConfigError
from reidx.memories import Memory
from reidx.optim.mmengine_optim import OptimWrapper
from reidx.optim.param_groups import parameter_groups
from reidx.profiling import span


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
        super().step(**kwargs)

    def _gather(self) -> None:
        parts = set() if self.shared is None else {id(p) for p in self.shared.parameters()}
        gradients = {id(p): p.grad for p in self._moved() if p.grad is not None}
        distributed.all_reduce_(list(gradients.values()))
        for parameter, gradient in gradients.items():
            if parameter not in parts:
                gradient.div_(distributed.count())

    @span("optimiser")
    def zero_grad(self, **kwargs: Any) -> None:
        super().zero_grad(**kwargs)

    def _clip_grad(self) -> None:
        # mmengine's own notes the norm, which makes the host wait for the device at every step
        self.clip_func(self._moved(), **self.clip_grad_kwargs)

    def _moved(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The autocast context of ``precision`` (``fp32`` or ``bf16``) on a device."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def build_optimizer(
    model: nn.Module, spec: Mapping[str, Any], optimization: Optimization | None = None
) -> torch.optim.Optimizer:
    """The torch optimiser of a spec ``{type, lr, …}`` over all of ``model``'s trainable parameters.

    It has one group of them, unless ``layer_decay``, ``no_decay_norm_bias`` or ``rates`` of ``optimization`` ask for
    several. Raises :class:`ConfigError` where nothing is left to be trained, or the layers cannot be told apart.
    """
    settings, asked = dict(spec), optimization or Optimization()
    groups = parameter_groups(model, asked.layer_decay, asked.no_decay_norm_bias, asked.rates)
    if not any(group["params"] for group in groups):
        raise ConfigError("There is no parameter to be trained: model.freeze holds all of them.")
    optimizer = getattr(torch.optim, settings.pop("type"))(groups, **settings)
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_scale", 1.0)
    return optimizer


def swap_parameters(optimizer: torch.optim.Optimizer, old: list[nn.Parameter], new: list[nn.Parameter]) -> None:
    """Make ``optimizer`` train ``new`` in the places of ``old``, with nothing remembered of the old ones."""
    places = {id(parameter): replacement for parameter, replacement in zip(old, new)}
    for group in optimizer.param_groups:
        group["params"] = [places.get(id(parameter), parameter) for parameter in group["params"]]
    for before, after in zip(old, new):
        if before is not after:
            optimizer.state.pop(before, None)


def fits(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> bool:
    """Whether ``saved``, the state of an optimiser, can go on in this one: of the same kind, over parameters alike."""
    groups, others = optimizer.param_groups, saved["param_groups"]
    if [len(group["params"]) for group in groups] != [len(other["params"]) for other in others]:
        return False
    for group, other in zip(groups, others):
        if not same_kind(group, other):
            return False
        for parameter, number in zip(group["params"], other["params"]):
            if not kept_of(parameter, saved["state"].get(number, {})):
                return False
    return True


def same_kind(group: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two groups of parameters are of the same kind of optimiser."""
    # of two kinds none has the same settings; amsgrad makes another of the same kind
    return {*group, "initial_lr"} == {*other, "initial_lr"} and group.get("amsgrad") == other.get("amsgrad")


def kept_of(parameter: Tensor, kept: Mapping[str, Any]) -> bool:
    """Whether what an optimiser kept can be of ``parameter``, by its shape."""
    return all(not isinstance(v, Tensor) or not v.ndim or v.shape == parameter.shape for v in kept.values())


class parameters_kept:
    """Context in which a memory may replace its parameters (reset, restore) without the optimiser losing them."""

    def __init__(self, memory: Memory, optimizer: torch.optim.Optimizer | None) -> None:
        self.memory, self.optimizer = memory, optimizer

    def __enter__(self) -> None:
        self.old = list(self.memory.parameters())

    def __exit__(self, *error: object) -> None:
        if self.optimizer is not None:
            swap_parameters(self.optimizer, self.old, list(self.memory.parameters()))


def clipping(limit: float | None, by: str) -> dict[str, Any] | None:
    """mmengine's settings for gradients of at most ``limit``, by ``norm`` or ``value``; without a limit nothing."""
    if limit is None:
        return None
    return {"type": "norm", "max_norm": limit} if by == "norm" else {"type": "value", "clip_value": limit}


def schedules(specs: list[dict[str, Any]], epochs: int) -> list[dict[str, Any]]:
    """mmengine scheduler configs with their ``end`` written out, by epoch.

    mmengine's default end is the run's length at construction, and resuming restores the old one, which would freeze
    the rate of a run that was made longer.
    """
    return [{"end": epochs, **spec, "by_epoch": True} for spec in specs]
