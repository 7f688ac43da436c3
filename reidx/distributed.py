"""Collective operations between the processes of one job.

With a single process they return their input unchanged. Functions marked "collective" must be called by all processes
in the same order.
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
_CHUNK = 64 << 20  # bytes sent at a time, so that stored features need no second copy on a device


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


# ---- shares


def edges(rows: int) -> list[int]:
    """Return the start of each process's consecutive share of ``rows``, and the end: count() + 1 numbers."""
    return np.linspace(0, rows, count() + 1).astype(int).tolist()


def shard(rows: int) -> slice:
    """Return this process's share of ``rows``."""
    borders = edges(rows)
    return slice(borders[rank()], borders[rank() + 1])


def fill_shards_(features: Tensor) -> Tensor:
    """Fill ``features`` (N,…), of which each process has filled its :func:`shard`, in place with all shards; collective."""
    if count() == 1:
        return features
    rows = max(1, _CHUNK // max(1, features[:1].numel() * features.element_size()))
    borders = edges(len(features))
    for owner in range(count()):
        for start in range(borders[owner], borders[owner + 1], rows):
            part = features[start : min(start + rows, borders[owner + 1])]
            sent = part.contiguous().view(torch.uint8).to(_place())  # bytes: gloo does not support every type
            dist.broadcast(sent, src=owner)
            if owner != rank():
                part.copy_(sent.to(features.device).view(features.dtype))
    return features


def all_gather_rows(part: Tensor) -> Tensor:
    """Concatenate ``part`` (B,…) of all processes, by rank; collective. Gradients flow to this process's own rows."""
    if count() == 1:
        return part
    sent = part.detach().contiguous().view(-1).view(torch.uint8).to(_place())
    received = [torch.empty_like(sent) for _ in range(count())]
    dist.all_gather(received, sent)
    parts = [one.to(part.device).view(part.dtype).view(part.shape) for one in received]
    parts[rank()] = part
    return torch.cat(parts)


def all_reduce_(tensors: list[Tensor]) -> None:
    """Sum each tensor over the processes, in place; collective. Tensors of one type and device are sent together."""
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
    """Replace each tensor by that of rank 0, in place; collective. Shapes and types must be equal."""
    if count() == 1:
        return
    for tensor in tensors:
        sent = tensor.detach().contiguous().view(-1).view(torch.uint8).to(_place())
        dist.broadcast(sent, src=0)
        if rank() > 0 and tensor.numel():
            with torch.no_grad():
                tensor.copy_(sent.to(tensor.device).view(tensor.dtype).view(tensor.shape))


# ---- work of rank 0


def on_rank_zero(make: Callable[[], _Made]) -> _Made:
    """Call ``make`` on rank 0 and return its result, or raise its exception, on all processes; collective."""
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
    """Return the error, or an error with the same message if it cannot be pickled."""
    try:
        ForkingPickler.dumps(error)
        copy.copy(error)  # takes the error apart and rebuilds it, as unpickling does
    except Exception:
        return ReidxError(f"process 0: {type(error).__name__}: {error}")
    return error


def rank_zero_first(make: Callable[[], _Made]) -> _Made:
    """Call ``make`` on rank 0 first, then on the other processes, which find the files that it left; collective.
    """
    made: list[_Made] = []
    on_rank_zero(lambda: made.append(make()))
    return made[0] if made else make()


def ranks_that_differ(key: str) -> list[int]:
    """Return the ranks whose ``key`` differs from that of rank 0; collective."""
    keys: list[str] = [""] * count()
    if count() > 1:
        dist.all_gather_object(keys, key)
    return [number for number, other in enumerate(keys) if other != keys[0]]


def _place() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
