"""BatchNorm with statistics over groups of a fixed size, independent of the batch size and the number of processes.

Results of unsupervised re-ID depend on the number of images that share BatchNorm statistics; published runs split a batch
of 256 over four devices, so each layer normalised 64 images at a time. Here that number is a setting: a process with several
groups normalises each separately ("ghost" BatchNorm); processes with parts of one group share its statistics ("sync").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reidx import distributed
from reidx.errors import ConfigError


class _Grouped:
    """Mixin for a BatchNorm class that, in training, normalises each group of ``group`` images separately.

    ``span`` is the number of processes that shared the last group.
    """

    group: int | None
    span: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:  # type: ignore[attr-defined]
            return super().forward(x)  # type: ignore[misc]
        self.span = _span(len(x), self.group)
        if self.span > 1:
            return self._shared(x)
        sizes = group_sizes(len(x), self.group)
        if len(sizes) == 1:
            return super().forward(x)  # type: ignore[misc]
        return torch.cat([super(_Grouped, self).forward(chunk) for chunk in x.split(sizes)])  # type: ignore[misc]

    def _shared(self, x: Tensor) -> Tensor:
        """Compute the layer's output, normalised by mean and variance of the group over all its processes."""
        team = _team(self.span)
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        images = x.float()
        n = x.numel() // x.shape[1] * self.span
        mean = _Summed.apply(images.sum(axes), team) / n
        centred = images - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(axes), team) / n
        own: Any = self
        normalised = (centred * (variance + own.eps).rsqrt().view(shape)).to(x.dtype)
        running = own.running_mean, own.running_var
        # scale, shift and activation run in evaluation mode, with statistics that change nothing
        own.training = False
        if running[0] is None:
            neutral = (torch.zeros_like(mean), torch.ones_like(mean) - own.eps)
        else:
            neutral = (torch.zeros_like(running[0]), torch.ones_like(running[1]) - own.eps)
        own.running_mean, own.running_var = neutral
        try:
            out = super().forward(normalised)  # type: ignore[misc]
        finally:
            own.training = True
            own.running_mean, own.running_var = running
        if running[0] is not None:
            with torch.no_grad():
                own.num_batches_tracked += 1
                running[0].lerp_(mean.to(running[0]), own.momentum)
                running[1].lerp_((variance * (n / (n - 1))).to(running[1]), own.momentum)
        return out


class _Summed(torch.autograd.Function):
    """Sum of a tensor over the processes of a team; gradients are summed too, because each process uses the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, team: Any) -> Tensor:
        ctx.team = team
        total = x.clone()
        dist.all_reduce(total, group=team)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.team)
        return total, None


def group_batch_norm(model: nn.Module, group: int | None) -> nn.Module:
    """Change every BatchNorm of ``model``, in place, to compute training statistics over ``group`` images.

    ``None`` means the batch of all processes; another call changes the group. Running statistics are updated once per
    group, in order. Parameters, buffers and their names do not change. timm's BatchNorms with a built-in activation work
    too, because their class is only extended. Raises :class:`ValueError` for a group below 2.
    """
    if group is not None and group < 2:
        raise ValueError(f"bn_group is {group}; a variance needs at least 2 images.")
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            base = type(module)
            if not isinstance(module, _Grouped):
                module.__class__ = type(f"Grouped{base.__name__}", (_Grouped, base), {})
            module.group, module.span = group, 1  # type: ignore[assignment]
    return model


def group_sizes(images: int, group: int | None) -> list[int]:
    """Return the sizes of the groups of a batch: as many full groups as possible, then the rest."""
    if group is None or images <= group:
        return [images]
    sizes = [group] * (images // group)
    rest = images - sum(sizes)
    if rest == 1:  # one image has no variance, so it joins the previous group
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def _span(images: int, group: int | None) -> int:
    """Return the number of processes that share a group, each with ``images`` images; ConfigError for uneven groups."""
    world = distributed.count()
    if world == 1:
        return 1
    if group is None or group >= images * world:
        return world
    if images % group == 0:
        return 1
    if group % images == 0 and world % (group // images) == 0:
        return group // images
    raise ConfigError(
        f"model.bn_group {group}: {world} processes with {images} images each cannot form groups of {group} as one process "
        f"with {images * world} would. Make the number of images per process a multiple of "
        "the group, or the group a divisor of that number."
    )


_teams: dict[int, Any] = {}


def _team(span: int) -> Any:
    """Return the process group that shares a BatchNorm group with this process."""
    if span == distributed.count():
        return None
    if span not in _teams:
        starts = range(0, distributed.count(), span)
        groups = [dist.new_group(list(range(start, start + span))) for start in starts]
        _teams[span] = groups[distributed.rank() // span]
    return _teams[span]


@contextlib.contextmanager
def statistics_in_order(network: nn.Module) -> Iterator[None]:
    """Make the running statistics of the enclosed forward passes equal those of one process that runs all groups in turn.

    Each process updates its copy with its own groups. If r is the value before, k the factor by which an update scales it,
    n the number of all updates, and A_p the contribution of the updates of process p, the result is k^n r + sum_p k^(m_p) A_p,
    where m_p is the number of updates by the processes after p.
    """
    if distributed.count() == 1:
        yield
        return
    layers: list[Any] = [
        m
        for m in network.modules()
        if isinstance(m, _Grouped) and isinstance(m, _BatchNorm) and m.training and m.running_mean is not None
    ]
    before = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    counted = [layer.num_batches_tracked.clone() for layer in layers]
    yield
    # counted by the layer, because a count in Python would make torch recompile at each step
    updates = [layer.num_batches_tracked - was for layer, was in zip(layers, counted, strict=True)]
    parts: list[Tensor] = []
    with torch.no_grad():
        for layer, old, own in zip(layers, before, updates, strict=True):
            keep = (1 - layer.momentum) ** own.double()
            later = distributed.count() // layer.span - 1 - distributed.rank() // layer.span
            for value, was in zip((layer.running_mean, layer.running_var), old, strict=True):
                parts.append((value - keep * was) * (keep**later / layer.span))
        distributed.all_reduce_(parts)
        moved = iter(parts)
        for layer, old, own in zip(layers, before, updates, strict=True):
            groups = distributed.count() // layer.span
            kept = (1 - layer.momentum) ** (own * groups).double()
            layer.num_batches_tracked += own * (groups - 1)
            for value, was in zip((layer.running_mean, layer.running_var), old, strict=True):
                # through .data, without autograd, like the layer's own update: backward does not read them
                value.data.copy_(next(moved) + kept * was)
