"""The processes of one job: how they start, what each has a share of, and how all come to hold the same.

A job of one process passes through all of this unchanged. Every function here that others must join ("together") has to
be called by all processes in the same order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from reidx.errors import ReidxError

_Made = TypeVar("_Made")
_CHUNK = 64 << 20  # bytes sent at a time, so that a bank needs no second copy on a device


def count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


# ---- shares


def edges(rows: int) -> list[int]:
    """Where each process's consecutive share of ``rows`` begins, and the end: count() + 1 numbers."""
    return np.linspace(0, rows, count() + 1).astype(int).tolist()


def shard(rows: int) -> slice:
    """This process's share of ``rows``."""
    borders = edges(rows)
    return slice(borders[rank()], borders[rank() + 1])


def fill_shards_(features: Tensor) -> Tensor:
    """``bank`` (N,…), of which each process has filled its :func:`shard`, filled in place with all shares; together."""
    if count() == 1:
        return features
    rows = max(1, _CHUNK // max(1, features[:1].numel() * features.element_size()))
    borders = edges(len(features))
    for owner in range(count()):
        for start in range(borders[owner], borders[owner + 1], rows):
            part = features[start : min(start + rows, borders[owner + 1])]
            sent = part.contiguous().view(torch.uint8).to(_place())  # bytes: gloo does not know every type
            dist.broadcast(sent, src=owner)
            if owner != rank():
                part.copy_(sent.to(features.device).view(features.dtype))
    return features


def all_gather_rows(part: Tensor) -> Tensor:
    """The rows of all processes' ``part`` (B,…), in their order; together. Gradients flow to this process's own rows."""
    if count() == 1:
        return part
    sent = part.detach().contiguous().view(-1).view(torch.uint8).to(_place())
    received = [torch.empty_like(sent) for _ in range(count())]
    dist.all_gather(received, sent)
    parts = [one.to(part.device).view(part.dtype).view(part.shape) for one in received]
    parts[rank()] = part
    return torch.cat(parts)


def all_reduce_(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over the processes, in place; together. All of one type and device travel at once."""
    if count() == 1 or not tensors:
        return
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.all_reduce(flat)
        for tensor, total in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
            tensor.copy_(total.view_as(tensor))


def broadcast_(tensors: list[Tensor]) -> None:
    """Replace each tensor by the first process's, in place; together. Shapes and types must be equal already."""
    if count() == 1:
        return
    for tensor in tensors:
        sent = tensor.detach().contiguous().view(-1).view(torch.uint8).to(_place())
        dist.broadcast(sent, src=0)
        if rank() > 0 and tensor.numel():
            with torch.no_grad():
                tensor.copy_(sent.to(tensor.device).view(tensor.dtype).view(tensor.shape))


# ---- the first process's word


def on_rank_zero(make: Callable[[], _Made]) -> _Made:
    """What ``make`` returns in the first process, given to all; what it raises there, all raise. Together."""
    if count() == 1:
        return make()
    answer: list[Any] = [None, None]
    failed: Exception | None = None
    if rank() == 0:
        try:
            answer[0] = make()
        except Exception as error:
            failed, answer[1] = error, portable(error)
    dist.broadcast_object_list(answer, src=0, device=_place())
    if answer[1] is not None:
        raise failed or answer[1]
    return answer[0]


def portable(error: Exception) -> Exception:
    """The error, or where it cannot be sent to another process, one that says the same."""
    try:
        ForkingPickler.dumps(error)
        copy.copy(error)  # takes the error apart and makes it anew as the other process would
    except Exception:
        return ReidxError(f"process 0: {type(error).__name__}: {error}")
    return error


def rank_zero_first(make: Callable[[], _Made]) -> _Made:
    """What ``make`` returns, called in the first process before the others: for what leaves files that they then find.

    Together.
    """
    made: list[_Made] = []
    on_rank_zero(lambda: made.append(make()))
    return made[0] if made else make()


def ranks_that_differ(key: str) -> list[int]:
    """The processes whose ``key`` is not the first one's; together."""
    keys: list[str] = [""] * count()
    if count() > 1:
        dist.all_gather_object(keys, key)
    return [number for number, other in enumerate(keys) if other != keys[0]]


def _place() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
