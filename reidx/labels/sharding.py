"""The neighbour search shared out over the processes of a job, and the check that all have the same labels."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from reidx.errors import ReidxError
from reidx.labels.neighbours import nearest


def processes() -> int:
    """How many processes work together; 1 outside a distributed job."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def nearest_together(
    features: Tensor, k: int, *, backend: str = "auto", device: str | torch.device | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, each process searching for its share of the rows; every process receives all of them.

    Every process must call it with the same features (N, D). Neighbours are exact, so the lists are the same for any
    number of processes.
    """
    world = processes()
    if world == 1:
        return nearest(features, k, backend=backend, device=device)
    edges = np.linspace(0, len(features), world + 1).astype(int)
    mine = slice(edges[dist.get_rank()], edges[dist.get_rank() + 1])
    squared, indices = nearest(features, k, backend=backend, device=device, rows=mine)
    return _gathered(squared, edges), _gathered(indices, edges)


def _gathered(part: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The rows of all processes; `edges` says which are whose."""
    counts = np.diff(edges)
    place = (
        torch.device("cuda", torch.cuda.current_device())
        if dist.get_backend() == "nccl"
        else torch.device("cpu")
    )
    padded = torch.zeros((int(counts.max()), part.shape[1]), dtype=torch.from_numpy(part).dtype, device=place)
    padded[: len(part)] = torch.from_numpy(part).to(place)
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return np.concatenate([rows[:count].cpu().numpy() for rows, count in zip(parts, counts, strict=True)])


def agree(labels: np.ndarray) -> np.ndarray:
    """The labels, once every process is known to have the same; ReidxError names those that differ from process 0."""
    if processes() == 1:
        return labels
    digest = hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()
    digests: list[str] = [""] * processes()
    dist.all_gather_object(digests, digest)
    others = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if others:
        raise ReidxError(
            f"Pseudo labels differ between processes: {', '.join(map(str, others))} disagree with process 0. "
            "They must label the same features in the same order; check that extraction gathers all of them everywhere."
        )
    return labels
